"""The C++ scorer as its user meets it: the same answers as Python, streams, and a true exit code for every fault."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import ROOT, rows, run_python, tiny_model, write_jsonl

from lib.data import load_split
from lib.evaluation import predictions
from lib.inference import score_questions
from lib.prompt import PromptConfig, encode_questions
from lib.scoring import PackedScorer

SCORE = ROOT / "cpp_scorer" / "score"
TOLERANCE = 1e-3  # of a log-prob near -100, in fp32

# Every form of a row, and texts that try the prompt contract: white space, braces, equal, empty and prefix endings.
CONTRACT_ROWS = [
    *rows(6),
    {"context": " {context} {x}\n\t", "endings": ["a", " a\r\n", "", "a b", "\u00a0a"], "label": 0},
    {"context": "caf\u00e9 cafe\u0301 \u00a0", "endings": ["<|endoftext|>", "\U0001f468\u200d\U0001f469"], "label": 1},
    *rows(2, num_candidates=9, start=50),
    *rows(2, num_candidates=2, start=60),
    {
        "id": "cut",
        "context": "the court " * 200 + "<HOLDING>",
        "endings": ["affirmed", "reversed and remanded"],
        "label": 1,
    },
]


@pytest.fixture(scope="session", autouse=True)
def scorer() -> Path:
    subprocess.run([ROOT / "tools" / "build_scorer.sh"], check=True, stdout=subprocess.DEVNULL)
    return SCORE


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A model folder to an ONNX file."""

    def export_model(model: Path, data: Path, *flags: str) -> Path:
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        run_python("export.py", "--model", model, "--output", path, "--data", data, "--limit", "2", *flags, cwd=ROOT)
        return path

    return export_model


@pytest.fixture(scope="session")
def onnx(export, model_folder, data_folder) -> Path:
    return export(model_folder, data_folder)


@pytest.fixture
def own_onnx(onnx, tmp_path) -> Path:
    """A copy of the export that a test may break."""
    shutil.copytree(onnx.parent, tmp_path / "export")
    return tmp_path / "export" / onnx.name


def run(*arguments, text: str | bytes = "", **options) -> subprocess.CompletedProcess:
    given = text if isinstance(text, bytes) else text.encode()
    result = subprocess.run([SCORE, *map(str, arguments)], input=given, capture_output=True, timeout=120, **options)
    result.stderr = result.stderr.decode()
    return result


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def answers(result: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def expected(model_folder, tokenizer, path: Path, score: str, **config) -> list[dict]:
    """What Python says of a file of questions."""
    from accelerate import Accelerator

    data = load_split(str(path), "test")
    encoded = encode_questions(data.questions, tokenizer, PromptConfig(data.default_template, **config))
    model = type(tiny_model()).from_pretrained(model_folder).eval()
    logprobs = score_questions(PackedScorer(model), encoded, Accelerator(cpu=True), batch_size=4, description="test")
    return predictions(encoded, logprobs, score)


def margin(record: dict) -> float:
    """How far the choice lies before the next candidate."""
    lengths = record["tokens"] if record["score"] == "mean" else [1] * len(record["tokens"])
    ranked = sorted(value / length for value, length in zip(record["logprobs"], lengths, strict=True))
    return ranked[-1] - ranked[-2]


def one_line(message: str) -> str:
    assert message.startswith("error: ") and message.count("\n") == 1 and message.endswith("\n"), message
    return message


# ---- the same answers as Python ----


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_predictions_equal_pythons(onnx, model_folder, tokenizer, tmp_path, score):
    path = write_jsonl(tmp_path / "rows.jsonl", CONTRACT_ROWS)
    result = run("--model", onnx, "--input", path, "--score", score)
    assert result.returncode == 0, result.stderr
    found, wanted = answers(result), expected(model_folder, tokenizer, path, score)
    assert wanted[-1]["truncated"] > 0
    for ours, theirs in zip(found, wanted, strict=True):
        assert list(ours) == list(theirs)
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
        if margin(theirs) > 2 * TOLERANCE:
            assert ours["prediction"] == theirs["prediction"]
        assert ours | {"logprobs": 0, "prediction": 0} == theirs | {"logprobs": 0, "prediction": 0}


def test_equal_endings_tie_and_the_first_wins(onnx):
    record = {"context": "In equity,", "endings": ["the lien", "a forged deed", " the lien\n", "the lien"]}
    [answer] = answers(run("--model", onnx, text=lines(record)))
    assert answer["logprobs"][0] == answer["logprobs"][2] == answer["logprobs"][3]
    assert answer["prediction"] in (0, 1)
    assert "label" not in answer


@pytest.mark.parametrize(
    "record",
    [
        {"citing_prompt": "In case 1", "holding_0": "the lien", "holding_1": "a deed", "label": "1"},
        {"question": "In case 1", "choices": ["the lien", "a deed"], "answer": "B"},
        {"prompt": "In case 1", "responses": ["the lien", "a deed"], "scores": [0.5, 1]},
    ],
)
def test_every_form_is_the_same_question(export, model_folder, data_folder, onnx, tmp_path, tokenizer, record):
    [field] = {"question", "prompt"} & record.keys() or {"context"}
    folder = shutil.copytree(model_folder, tmp_path / "model")
    PromptConfig(f"{{{field}}}").save(folder)
    data = write_jsonl(tmp_path / "test.jsonl", [record, record])
    [answer, _] = answers(run("--model", export(folder, data), "--input", data))
    lexglue = {"context": "In case 1", "endings": ["the lien", "a deed"], "label": 1}
    assert answer == answers(run("--model", onnx, text=lines(lexglue)))[0]


def test_batches_change_nothing_but_the_last_digits(onnx, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(40, num_candidates=3) + rows(40, num_candidates=7, start=40))
    alone, together = (answers(run("--model", onnx, "--input", path, "--batch-tokens", n)) for n in (1, 100_000))
    assert [item["id"] for item in alone] == [item["id"] for item in together] == [f"q{n}" for n in range(80)]
    for one, other in zip(alone, together, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=TOLERANCE)


def test_a_reference_makes_the_choice_by_log_ratio(onnx, export, data_folder, tokenizer, tmp_path, model_folder):
    torch.manual_seed(1)
    reference = tiny_model()
    for parameter in reference.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    reference.save_pretrained(tmp_path / "reference")
    tokenizer.save_pretrained(tmp_path / "reference")
    path = write_jsonl(tmp_path / "rows.jsonl", rows(12))
    result = run("--model", onnx, "--input", path, "--reference", export(tmp_path / "reference", data_folder))
    wanted = expected(model_folder, tokenizer, path, "sum")
    wanted_reference = expected(tmp_path / "reference", tokenizer, path, "sum")
    for answer, policy, base in zip(answers(result), wanted, wanted_reference, strict=True):
        assert list(answer)[4:6] == ["logprobs", "reference_logprobs"]
        assert answer["reference_logprobs"] == pytest.approx(base["logprobs"], abs=TOLERANCE)
        ratios = [p - b for p, b in zip(policy["logprobs"], base["logprobs"], strict=True)]
        assert ratios[answer["prediction"]] == pytest.approx(max(ratios), abs=4 * TOLERANCE)


def test_a_reference_of_another_contract_is_refused(onnx, export, model_folder, data_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    PromptConfig("{context} So:").save(folder)
    result = run("--model", onnx, "--reference", export(folder, data_folder), text=lines(*rows(1)))
    assert result.returncode == 1 and "its template is not that of" in one_line(result.stderr)


def test_labels_give_accuracy_and_rate(onnx):
    records = rows(10)
    result = run("--model", onnx, text=lines(*records))
    correct = sum(item["prediction"] == item["label"] for item in answers(result))
    assert f"({correct} of 10, 95 % interval " in result.stderr and "questions/s" in result.stderr
    for record in records:
        del record["label"]
    assert run("--model", onnx, text=lines(*records)).stderr == ""


def test_tokenize(onnx, tokenizer):
    texts = ["", "the lease", " caf\u00e9 cafe\u0301", "a\n\n b", "<|endoftext|>", "\U0001f468\u200d\U0001f469"]
    result = run("--model", onnx, "--tokenize", text=lines(*({"text": text} for text in texts)) + '{"ids": 1}\n')
    assert [item.get("ids") for item in answers(result)[:-1]] == [tokenizer(text)["input_ids"] for text in texts]
    assert "field 'text': is missing" in answers(result)[-1]["error"]
    assert result.returncode == 1 and one_line(result.stderr).startswith("error: stdin:7: ")


# ---- streams ----


def test_the_first_answer_leaves_before_the_second_question_comes(onnx):
    with subprocess.Popen([SCORE, "--model", onnx], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for record in rows(3):
            process.stdin.write(lines(record).encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == record["id"]
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_reader_that_leaves_ends_it_with_one_line(onnx):
    text = lines(*rows(1)) * 2000
    with subprocess.Popen(
        [SCORE, "--model", onnx], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        # The scorer may end before it has read everything, or even anything.
        try:
            process.stdin.write(text.encode())
            process.stdin.close()
        except BrokenPipeError:
            pass
        message = process.stderr.read().decode()
        assert process.wait(timeout=60) == 1
    assert one_line(message) == "error: stdout: cannot be written (Broken pipe)\n"


def test_a_full_disk_ends_it_with_one_line(onnx):
    result = run("--model", onnx, "--output", "/dev/full", text=lines(*rows(1)))
    assert result.returncode == 1 and "No space left on device" in one_line(result.stderr)


def test_output_appears_whole_or_not_at_all(onnx, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with subprocess.Popen(
        [SCORE, "--model", onnx, "--output", folder / "a.jsonl"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(lines(*rows(2)).encode())
        process.stdin.flush()
        assert not (folder / "a.jsonl").exists()
        process.kill()
    # Where the file system has no files without a name, a temporary one stays behind.
    assert [path.suffix for path in folder.iterdir()] in ([], [".tmp"])
    assert run("--model", onnx, "--output", folder / "a.jsonl", text=lines(*rows(2))).returncode == 0
    assert len((folder / "a.jsonl").read_text().splitlines()) == 2


# ---- every fault has its line and a true code ----


BAD_LINES = [
    (b'{"context": "c"', "broken JSON or not UTF-8"),
    (b'{"context": "caf\xe9", "endings": ["a", "b"]}', "broken JSON or not UTF-8"),
    (rb'{"context": "\ud800", "endings": ["a", "b"]}', "broken JSON or not UTF-8"),
    (b'{"id": "x", "context": "c", "endings": ["a"]}', "field 'endings': 1 candidates"),
    (b'{"id": 5, "context": "c", "endings": ["a", "b"], "label": 2}', "field 'label': names none of the 2"),
    (b'{"context": " ", "endings": ["a", "b"]}', "the prompt is empty"),
    (b'{"question": "c", "choices": ["a", "b"]}', "field 'context' is missing"),
    (b'{"context": "c", "endings": ["a", "%s"]}' % (b"the lien " * 400), "over the model's max length of 512"),
    (b'{"context": "c", "endings": [%s]}' % (b'"%s", ' % (b"a deed " * 60) * 200 + b'"a"'), "over the limit of 8192"),
]


def test_a_bad_line_is_recorded_and_the_rest_is_scored(onnx, tmp_path):
    good = lines(*rows(1)).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(good + b"\n" + line + b"\n" for line, _ in BAD_LINES) + good)
    result = run("--model", onnx, "--input", path)
    found = answers(result)
    assert result.returncode == 1
    assert [item["id"] for item in found[::2]] == ["q0"] * (len(BAD_LINES) + 1) and "prediction" in found[0]
    assert len({json.dumps(item) for item in found[::2]}) == 1
    *messages, summary = result.stderr.splitlines()
    assert summary.startswith("accuracy")
    for number, ((_, what), record, message) in enumerate(zip(BAD_LINES, found[1::2], messages, strict=True)):
        assert list(record) == ["id", "error"] and what in record["error"]
        assert record["id"] == {3: "x", 4: "5"}.get(number, str(2 * number + 1))
        assert message == f"error: {path}:{3 * number + 3}: {record['error']}"


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ([], "--model is missing"),
        (["--nonsense"], "'--nonsense' is no flag"),
        (["-x"], "'-x' is no flag"),
        (["question.jsonl"], "'question.jsonl' is no flag"),
        (["--model"], "--model needs a value"),
        (["--model", "m", "--score", "bytes"], "--score takes sum or mean, not 'bytes'"),
        (["--model", "m", "--device", "tpu"], "--device takes cpu or cuda, not 'tpu'"),
        (["--model", "m", "--threads", "0"], "--threads takes a number from 1"),
        (["--model", "m", "--threads", "two"], "--threads takes a number from 1"),
        (["--model", "m", "--batch-tokens", "1e3"], "--batch-tokens takes a number from 1"),
    ],
)
def test_a_bad_flag_ends_with_2(flags, what):
    result = run(*flags)
    assert result.returncode == 2 and what in one_line(result.stderr) and result.stdout == b""


def test_on_a_bare_terminal_one_line_says_what_to_type(onnx):
    terminal, other_end = os.openpty()
    result = subprocess.run([SCORE, "--model", onnx], stdin=other_end, capture_output=True, text=True, timeout=60)
    os.close(terminal), os.close(other_end)
    assert result.returncode == 2 and "--input questions.jsonl" in one_line(result.stderr)


def test_help_and_version():
    assert run("--help").returncode == 0 and b"--batch-tokens" in run("--help").stdout
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").stdout.startswith(f"score {version}, onnxruntime 1.".encode())


def break_model(path: Path, how: str) -> str:
    """Breaks an export in one way; what the message must say."""
    [data] = path.parent.glob("*.data")
    if how == "missing":
        path.unlink()
        return "cannot be read (No such file"
    if how == "folder":
        path.unlink(), path.mkdir()
        return "cannot be read"
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
        return "truncated"
    if how == "no model":
        path.write_text("not a model at all")
        return "not an ONNX model"
    if how == "weights missing":
        data.unlink()
        return "are missing"
    if how == "weights truncated":
        os.truncate(data, data.stat().st_size // 2)
        return "cannot be loaded"
    if how == "another tokenizer":
        (path.parent / "tokenizer.json").write_text("{}")
        return "is not the tokenizer it was exported with"
    raise ValueError(how)


@pytest.mark.parametrize(
    "how",
    ["missing", "folder", "truncated", "no model", "weights missing", "weights truncated", "another tokenizer"],
)
def test_a_broken_model_ends_with_one_line(own_onnx, how):
    what = break_model(own_onnx, how)
    result = run("--model", own_onnx, text=lines(*rows(1)))
    assert result.returncode == 1 and what in one_line(result.stderr) and result.stdout == b""


def test_bad_input_and_output_names_end_with_one_line(onnx, tmp_path):
    for flags in (["--input", tmp_path / "none"], ["--input", tmp_path], ["--output", tmp_path / "no" / "file"]):
        result = run("--model", onnx, *flags, text=lines(*rows(1)))
        assert result.returncode == 1 and str(tmp_path) in one_line(result.stderr)


# ---- the C++ unit tests ----


def ctest(build: Path) -> None:
    cmake = ROOT / ".venv" / "bin" / "ctest"
    program = str(cmake) if cmake.exists() else "ctest"
    subprocess.run([program, "--test-dir", build, "--output-on-failure", "--timeout", "120"], check=True)


def test_unit_tests():
    ctest(ROOT / "cpp_scorer" / "build")


@pytest.mark.slow
def test_unit_tests_under_the_sanitizers():
    subprocess.run([ROOT / "tools" / "build_scorer.sh", "--sanitize"], check=True, stdout=subprocess.DEVNULL)
    ctest(ROOT / "cpp_scorer" / "build-sanitize")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fuzz_reader", "fuzz_tokenizer"])
def test_fuzzing_finds_nothing_in_60_seconds(target):
    subprocess.run([ROOT / "tools" / "build_scorer.sh", "--sanitize"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([ROOT / "cpp_scorer" / "build-sanitize" / "tests" / target, "60"], check=True)
