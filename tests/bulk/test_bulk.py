"""Questions in many files, scored in blocks: the bytes of the program for each file, however they are cut, and once."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SCORE, rows, write_jsonl

from lib.bulk.blocks import as_file, blocks, read, sources
from lib.bulk.libscore import Libscore
from lib.bulk.places import files_below, located, read_file, write_file
from lib.bulk.scoring import Job, begin, predictions
from lib.errors import InputError

sys.path.insert(0, str(ROOT / "tools"))
import score_dataset  # noqa: E402

# Rows at fault, and rows that leave their names to their numbers.
HOSTILE = [
    b'{"context": "a',
    b'{"id": "own", "context": "c", "endings": ["one"]}',
    b'{"id": 7, "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": null, "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": [1], "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": 1.5, "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": true, "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"context": "c <HOLDING>", "endings": ["one", "two"]}\r',
    b"[1]",
    b"{}",
    b"\xff\xfe",
    b'{"id": "2", "context": "c <HOLDING>", "endings": ["one", "two"], "label": 9}',
    b'{"id": "", "context": "c <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": "half", "context": "\\ud800 <HOLDING>", "endings": ["one", "two"]}',
    b'{"id": "nan", "context": "c <HOLDING>", "endings": ["one", "two"], "label": NaN}',
    b'{"id": "deep", "context": ' + b"[" * 50 + b"]" * 50 + b', "endings": ["one", "two"]}',
    b'{"id": 99999999999999999999999, "context": "c <HOLDING>", "endings": ["one", "two"]}',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two files, one below the other: hostile rows among good ones, blank lines, a byte order mark, and no line feed at
    the end."""
    place = tmp_path_factory.mktemp("questions")
    good = [json.dumps(row).encode() for row in rows(20, 3)]
    lines = [line for pair in zip(good, [*HOSTILE, *[b" \t"] * 3], strict=True) for line in pair]
    (place / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    write_jsonl(place / "more" / "b.jsonl", [{k: v for k, v in row.items() if k != "id"} for row in rows(7)])
    return place


def piped(model: Path, questions: Path) -> bytes:
    """What the program says of a whole file."""
    command = [SCORE, "--model", model, "--threads", "1", "--input", questions]
    return subprocess.run(command, capture_output=True).stdout


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_blocks_of_any_size_have_the_programs_answers(folder, onnx_model, scorer, size):
    model = Libscore(onnx_model, "sum")
    for source in sources(str(folder)):
        lines = [line for block in blocks(source, size) for line in predictions(model, read(block), block.first)]
        assert as_file(lines, "jsonl") == piped(onnx_model, folder / source.name)
    model.close()


def test_every_row_stands_in_one_block(folder):
    assert [source.name for source in sources(str(folder))] == ["a.jsonl", "more/b.jsonl"]
    [only] = sources(str(folder / "more" / "b.jsonl"))
    assert only.name == "b.jsonl"
    cut = blocks(only, 3)
    assert [(block.first, block.rows) for block in cut] == [(0, 3), (3, 3), (6, 1)]
    assert [block.output("jsonl") for block in cut][1] == "b.jsonl/000000000003-000000000005.jsonl"
    assert b"\n".join(line for block in cut for line in read(block)) + b"\n" == Path(only.place).read_bytes()


def test_parquet_in_and_out(folder, onnx_model, scorer, tmp_path):
    """The rows of a file in groups of 4, in blocks of 3; a null or NaN is a column that the row lacks."""
    questions = [{**row, "weight": 1.5} for row in rows(9)]
    questions[5] |= {"id": None, "weight": float("nan")}
    pq.write_table(pa.Table.from_pylist(questions), tmp_path / "q.parquet", row_group_size=4)
    [source] = sources(str(tmp_path))
    cut = blocks(source, 3)
    assert [(block.first, block.rows, block.part, block.skip) for block in cut] == [
        (0, 3, 0, 0),
        (3, 1, 0, 3),
        (4, 3, 1, 0),
        (7, 1, 1, 3),
        (8, 1, 2, 0),
    ]
    model = Libscore(onnx_model, "sum")
    lines = [line for block in cut for line in predictions(model, read(block), block.first)]
    model.close()
    write_jsonl(tmp_path / "q.jsonl", [{k: v for k, v in row.items() if v is not None and v == v} for row in questions])
    assert as_file(lines, "jsonl") == piped(onnx_model, tmp_path / "q.jsonl")
    (tmp_path / "out.parquet").write_bytes(as_file(lines, "parquet"))
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == list(map(json.loads, lines))


def test_predictions_do_not_lie_among_the_questions(folder, onnx_model):
    """A second start would take them for questions."""
    for output in (folder, folder / "predictions"):
        with pytest.raises(InputError, match="lies in the folder of the questions; choose another --output"):
            score_dataset.main([str(folder), "--model", str(onnx_model), "--output", str(output)])


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        sources(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"holds no questions; they are read from .jsonl and .parquet files"):
        sources(str(tmp_path))
    (tmp_path / "broken.parquet").write_text("text")
    with pytest.raises(InputError, match=r"broken.parquet: cannot be read"):
        blocks(sources(str(tmp_path))[0], 10)
    with pytest.raises(InputError, match="missing.onnx"):
        Job(tmp_path / "missing.onnx", None, "sum", str(tmp_path), "jsonl", 1).open()


def test_a_file_that_has_changed_since_it_was_cut_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", rows(5))
    cut = blocks(sources(str(path))[0], 3)
    write_jsonl(path, rows(4))
    assert len(read(cut[0])) == 3
    with pytest.raises(InputError, match="q.jsonl: has changed since it was cut into blocks"):
        read(cut[1])


def test_one_command_at_a_time_writes_below_a_folder(tmp_path, onnx_model, folder):
    left = tmp_path / "out" / "a.jsonl" / ".x.jsonl.7.incomplete"
    with score_dataset.alone_in(str(tmp_path / "out")):
        left.parent.mkdir()
        left.touch()
        with pytest.raises(InputError, match="out: another command writes there; wait for its end"):
            score_dataset.main([str(folder), "--model", str(onnx_model), "--output", str(tmp_path / "out")])
    assert left.exists()  # it may be no folder of this job's
    with score_dataset.without_halves(str(tmp_path / "out")):
        assert not left.exists()
        left.touch()
    assert not left.exists()


def test_a_folder_begun_with_something_else_is_refused(tmp_path):
    begin(str(tmp_path), {"score": "sum", "block_rows": 10})
    begin(str(tmp_path), {"score": "sum", "block_rows": 10})
    with pytest.raises(InputError, match="scoring.json: begun with --block-rows 10, not 20; choose another --output"):
        begin(str(tmp_path), {"score": "sum", "block_rows": 20})
    with pytest.raises(InputError, match="scoring.json: begun with other questions; choose another --output"):
        begin(str(tmp_path), {"questions": {"a.jsonl": 7}})


def test_without_ray_one_line_says_what_to_install(monkeypatch, folder, onnx_model, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = [str(folder), "--model", str(onnx_model), "--output", str(tmp_path / "out")]
    with pytest.raises(InputError, match=r"Ray is not installed; type `pip install ray==\S+`"):
        score_dataset.main(flags)


def scored(output: Path, name: str) -> bytes:
    """The predictions of a file's blocks, put together."""
    return b"".join(path.read_bytes() for path in sorted((output / name).glob("*.jsonl")))


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Callable[[str], str]]:
    """A path in an object store to its address: S3 as moto, another program, serves it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed (tests/requirements.txt)")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    system, path = located(f"s3://bucket?{options}")
    system.create_dir(path)
    yield lambda path: f"s3://bucket/{path}?{options}"
    server.stop()


@pytest.mark.slow
def test_an_object_store_is_read_and_written(bucket, folder, onnx_model, scorer):
    write_file((folder / "a.jsonl").read_bytes(), bucket("questions"), "more/my file #1.jsonl")
    [alone] = sources(bucket("questions/more/my%20file%20%231.jsonl"))
    [found] = sources(bucket("questions"))
    assert alone.place == found.place and found.name == "more/my file #1.jsonl"
    flags = [bucket("questions"), "--model", str(onnx_model), "--output", bucket("out"), "--block-rows", "7"]
    assert score_dataset.main([*flags, "--workers", "1"]) == 3
    written = files_below(bucket("out"))
    names = sorted(name for name in written if name != "scoring.json")
    assert b"".join(read_file(bucket("out"), name) for name in names) == piped(onnx_model, folder / "a.jsonl")
    assert score_dataset.main([*flags, "--workers", "1"]) == 0 and files_below(bucket("out")) == written
    with pytest.raises(InputError, match="no such file or folder"):
        sources(bucket("nowhere"))


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_scores_every_question_once(three_nodes, folder, onnx_model, scorer, tmp_path):
    """20,000 questions; the node is lost in the middle. The command once more has nothing left to do."""
    place = shutil.copytree(folder, tmp_path / "questions")
    write_jsonl(place / "many.jsonl", rows(20_000))
    output = tmp_path / "out"
    flags = [place, "--model", onnx_model, "--output", output, "--block-rows", "250", "--ray", three_nodes.address]
    lost = three_nodes.lose_one_when(lambda: len(list((output / "many.jsonl").glob("*.jsonl"))) >= 20)
    assert score_dataset.main([*map(str, flags)]) == 3
    assert not lost.is_alive()
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}  # nothing half-written
    assert len(times) == 1 + 20_000 // 250 + 2
    for name in ("a.jsonl", "more/b.jsonl", "many.jsonl"):
        assert scored(output, name) == piped(onnx_model, place / name), name
    assert score_dataset.main([*map(str, flags)]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on(onnx_model, scorer, tmp_path):
    write_jsonl(tmp_path / "q.jsonl", rows(3000))
    output, model = tmp_path / "out", ["--model", str(onnx_model)]
    command = [sys.executable, ROOT / "tools" / "score_dataset.py", "q.jsonl", *model, "--output", "out"]
    for signum, code, blocks_done in ((signal.SIGINT, 130, 5), (signal.SIGKILL, -9, 15)):
        child = subprocess.Popen([*command, "--block-rows", "50"], cwd=tmp_path)
        while len(list(output.rglob("*.jsonl"))) < blocks_done:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signum)
        assert child.wait(60) == code
    assert 15 <= len(list(output.rglob("*.jsonl"))) < 60
    subprocess.run([*command, "--block-rows", "50"], check=True, cwd=tmp_path)
    assert scored(output, "q.jsonl") == piped(onnx_model, tmp_path / "q.jsonl")
