"""The C++ scorer as its user meets it: the same answers as Python, streams, and a true exit code for every fault."""

import json
import os
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import onnx
import pytest
import torch
from conftest import ROOT, SCORE, build_scorer, rows, tiny_model, write_jsonl

import eval_mc
from lib.errors import InputError
from lib.evaluation.scores import Scored, choose, score_values
from lib.packed.inference import share_equal
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.questions.data import load_split
from lib.questions.prompt import PromptConfig, encode_questions

BUILD = ROOT / "cpp_scorer" / "build"
SANITIZED = ROOT / "cpp_scorer" / "build-sanitize"
TOLERANCE = 1e-3  # of a log-prob near -100, in fp32

# Texts that try the prompt contract: white space, braces, equal, empty and prefix endings, a context that is cut.
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


pytestmark = pytest.mark.usefixtures("scorer")


@pytest.fixture(scope="session")
def sanitized() -> Path:
    build_scorer("--sanitize")
    return SANITIZED


@pytest.fixture(scope="session")
def model(onnx_model) -> Path:
    return onnx_model


@pytest.fixture(scope="session")
def reference(export, tokenizer, tmp_path_factory) -> tuple[Path, Path]:
    """Another model with the same tokenizer: its folder and its ONNX file."""
    folder = tmp_path_factory.mktemp("reference")
    torch.manual_seed(1)
    model = tiny_model()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, export(folder)


@pytest.fixture
def own_onnx(model, tmp_path):
    """A copy of the export that a test may break, some of its metadata changed."""

    def copy(**metadata: str) -> Path:
        folder = shutil.copytree(model.parent, tmp_path / f"export{len(list(tmp_path.glob('export*')))}")
        graph = onnx.load(folder / model.name, load_external_data=False)
        for entry in graph.metadata_props:
            entry.value = metadata.pop(entry.key, entry.value)
        assert not metadata
        onnx.save(graph, folder / model.name)
        return folder / model.name

    return copy


def run(*arguments, text: str | bytes = "", **options) -> subprocess.CompletedProcess:
    given = text if isinstance(text, bytes) else text.encode()
    result = subprocess.run([SCORE, *map(str, arguments)], input=given, capture_output=True, timeout=120, **options)
    result.stderr = result.stderr.decode()
    return result


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def answers(result: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def expected(folder: Path, tokenizer, path: Path, score: str = "sum", **config) -> list[dict]:
    """What Python says of a file of questions, by the model in `folder`."""
    data = load_split(str(path), "test")
    config.setdefault("template", data.default_template)
    encoded = encode_questions(data.questions, tokenizer, PromptConfig(**config))
    scorer = PackedScorer(type(tiny_model()).from_pretrained(folder).eval())
    with torch.no_grad():
        logprobs = [share_equal(scorer(pack([item]))[0].tolist(), item.ending_ids) for item in encoded]
    return Scored(encoded, logprobs).predictions(score)


def margin(record: dict) -> float:
    """How far the choice lies before the next candidate."""
    ranked = sorted(score_values(record))
    return ranked[-1] - ranked[-2]


def one_line(message: str) -> str:
    assert message.startswith("error: ") and message.count("\n") == 1 and message.endswith("\n"), message
    return message


# ---- the same answers as Python ----


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_predictions_equal_pythons(model, model_folder, tokenizer, tmp_path, score):
    path = write_jsonl(tmp_path / "rows.jsonl", CONTRACT_ROWS)
    result = run("--model", model, "--input", path, "--score", score)
    assert result.returncode == 0, result.stderr
    found, wanted = answers(result), expected(model_folder, tokenizer, path, score)
    assert wanted[-1]["truncated"] > 0
    for ours, theirs in zip(found, wanted, strict=True):
        assert list(ours) == list(theirs)
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
        if margin(theirs) > 2 * TOLERANCE:
            assert ours["prediction"] == theirs["prediction"]
        assert ours | {"logprobs": 0, "prediction": 0} == theirs | {"logprobs": 0, "prediction": 0}


@pytest.mark.parametrize("template", ["{context}", "Passage: {context} Holding:"])
def test_pmi_equals_pythons(own_onnx, tmp_path, template):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(8) + rows(4, num_candidates=3, start=50))
    exported = own_onnx(template=template)
    eval_mc.main(
        [*map(str, ("--model", exported, "--data", path, "--score", "pmi", "--output", tmp_path / "out.jsonl"))]
    )
    wanted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = answers(run("--model", exported, "--input", path, "--score", "pmi"))
    for ours, theirs in zip(found, wanted, strict=True):
        assert list(ours) == list(theirs)
        for field in ("logprobs", "neutral_logprobs"):
            assert ours[field] == pytest.approx(theirs[field], abs=TOLERANCE)
        if margin(theirs) > 4 * TOLERANCE:
            assert ours["prediction"] == theirs["prediction"]
    sums = answers(run("--model", exported, "--input", path))
    assert [one["prediction"] for one in sums] != [one["prediction"] for one in found]


def test_equal_endings_tie_and_the_first_wins(model):
    record = {"context": "In equity,", "endings": ["the lien", "a forged deed", " the lien\n", "the lien"]}
    [answer] = answers(run("--model", model, text=lines(record)))
    assert answer["logprobs"][0] == answer["logprobs"][2] == answer["logprobs"][3]
    assert answer["prediction"] in (0, 1)
    assert "label" not in answer


# One line each: a question that both readers take, or one that both refuse.
LEXGLUE, MMLU, GRADED = (
    '"context": "c", "endings": ["a", "b"]',
    '"question": "q", "choices": ["a", "b"]',
    ('"prompt": "p", "responses": ["a", "b"]'),
)
HOLDINGS = '"citing_prompt": "c", "holding_0": "a", "holding_1": "b"'
READER_LINES = [
    *(
        f'{{{LEXGLUE}, "label": {label}}}'
        for label in ("0", "-0", '"1"', '"-0"', '"001"', "2", "-1", "1.0", "true", '"A"')
    ),
    *(f'{{{LEXGLUE}, "label": {label}}}' for label in ('""', '"1 "', "[]", "99999999999999999999", '"0000000001"')),
    *(f'{{{LEXGLUE}, "label": 1, "id": {number}}}' for number in ('"x"', "7", "-7", "null", '"\\u00e9"', '" "')),
    *(f'{{{LEXGLUE}, "label": 1, "id": {number}}}' for number in ('""', "1.5", "true", "[]", "{}")),
    f'{{{LEXGLUE}, "label": 1, "label": 0, "court": "9th Cir.", "year": 1999, "notes": [[]], "prompt": "p"}}',
    '{"context": " c \\n", "endings": [" a\\t", "a\\f", "", "\\u00a0a", "\\u2028"], "label": 1}',
    '{"context": 1, "endings": ["a", "b"], "label": 0}',
    '{"context": "c", "endings": "ab", "label": 0}',
    '{"context": "c", "endings": ["a", null], "label": 0}',
    '{"context": "c", "endings": ["a"], "label": 0}',
    '{"context": "c", "endings": {"0": "a", "1": "b"}, "label": 0}',
    '{"context": "c", "label": 0}',
    '{"endings": ["a", "b"], "label": 0}',
    f'{{{HOLDINGS}, "label": "1", "context": "shadowed", "holding_x": "e", "holding_": "f"}}',
    f'{{{HOLDINGS}, "label": 1, "holding_3": "d"}}',
    f'{{{HOLDINGS}, "label": 1, "holding_02": "d"}}',
    f'{{{HOLDINGS}, "label": 1, "holding_2": 3}}',
    f'{{{HOLDINGS}, "label": 2, "holding_2": "d", "endings": "none"}}',
    '{"citing_prompt": "c", "holding_0": "a", "label": 0}',
    '{"citing_prompt": "c", "holding_1": "a", "holding_2": "b", "label": 0}',
    *(
        f'{{{MMLU}, "answer": {answer}, "subject": "law"}}'
        for answer in ("1", '"B"', '"1"', '"C"', '"b"', '"AB"', '""')
    ),
    f'{{{MMLU}, "answer": 0, {LEXGLUE}}}',
    f'{{{MMLU}, "answer": 0, {GRADED}, "scores": [0, 1]}}',
    *(
        f'{{{GRADED}, "scores": [0.5, {score}]}}'
        for score in ("1", "0.5", '"1"', '" +1.5e0 "', '"1_0"', '"1e-999"', "1e-999")
    ),
    *(
        f'{{{GRADED}, "scores": [0.5, {score}]}}'
        for score in ("1e999", '"1e999"', '"nan"', "true", "null", '"0x1"', '"1_"')
    ),
    *(f'{{{GRADED}, "scores": {scores}}}' for scores in ("[1]", "[1, 2, 3]", '"12"', '{"a": 1, "b": 2}', "3")),
    *(
        "nonsense",
        "[1]",
        "null",
        "{}",
        '{"context": "c"',
        f'{{{LEXGLUE}, "label": 1}} {{}}',
        f"{{{LEXGLUE}, 'label': 1}}",
    ),
    f'{{{LEXGLUE}, "label": 1,}}',
    f'{{{LEXGLUE}, "label": 01}}',
    f'{{{LEXGLUE}, "label": 1}}\0',
    f'\ufeff{{{LEXGLUE}, "label": 1}}',
    f'\xa0{{{LEXGLUE}, "label": 1}}',
    f'\t{{{LEXGLUE}, "label": 1}} \r',
    '{"context": "tab\there", "endings": ["a", "b"], "label": 0}',
    '{"context": "nul \\u0000", "endings": ["a", "b"], "label": 0}',
    '{"context": "\\ud83d\\ude00 \\\\ud800", "endings": ["a", "b"], "label": 0}',
    *(
        f'{{"context": "{text}", "endings": ["a", "b"], "label": 0}}'
        for text in (r"\ud800", r"\ude00\ud83d", r"\ud83dx", r"\x")
    ),
    f'{{{LEXGLUE}, "label": 1, "other": "\\udc00"}}',
    f'{{{LEXGLUE}, "label": 1, "\\udc00": 1}}',
    *(
        b'{"context": "%s", "endings": ["a", "b"], "label": 0}' % text
        for text in (b"\xe9", b"\xed\xa0\x80", b"\xc0\x80")
    ),
    b'{"context": "\xf4\x90\x80\x80", "endings": ["a", "b"], "label": 0}',
    f'{{{LEXGLUE}, "label": 1, "other": "\x7f\u2028\ufffe\U0010ffff"}}',
]


def test_both_readers_take_and_refuse_the_same_lines(own_onnx, model_folder, tokenizer, tmp_path):
    """Fields, candidates, label and id by what is scored; whether a line is at fault by its error."""
    fields = ("context", "question", "prompt")
    models = {field: own_onnx(template=f"{{{field}}} Holding:") for field in fields}
    given = [line if isinstance(line, bytes) else line.encode() for line in READER_LINES]
    # A first line that both take, since only a file's first line may begin with a byte order mark.
    first = lines(*rows(1)).encode()
    found = {field: answers(run("--model", models[field], text=first + b"\n".join(given)))[1:] for field in fields}
    refused = 0
    for number, line in enumerate(given):
        path = tmp_path / "one.jsonl"
        path.write_bytes(b"\n" + line)
        try:
            field = load_split(str(path), "test").default_template[1:-1]
        except InputError:
            assert all("error" in found[field][number] for field in fields), line
            refused += 1
            continue
        [wanted] = expected(model_folder, tokenizer, path, template=f"{{{field}}} Holding:")
        answer = found[field][number]
        assert "error" not in answer, (line, answer)
        if wanted["id"] == "0":
            wanted["id"] = str(number + 1)
        assert answer.pop("logprobs") == pytest.approx(wanted.pop("logprobs"), abs=TOLERANCE), line
        assert {**answer, "prediction": 0} == {**wanted, "prediction": 0}, line
    assert 40 < refused < len(given) - 30


def test_templates_name_every_text_column(own_onnx, model_folder, tokenizer, tmp_path):
    template = "{court}: {context} ({year}){nothing"
    records = [record | {"court": "9th Cir. {year}", "year": "1999"} for record in rows(3)]
    path = write_jsonl(tmp_path / "rows.jsonl", records + [rows(1)[0] | {"id": "z", "court": "c", "year": 1999}])
    result = run("--model", own_onnx(template=template), "--input", path)
    *found, last = answers(result)
    wanted = expected(model_folder, tokenizer, write_jsonl(tmp_path / "good.jsonl", records), template=template)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
    assert "field 'year' is missing" in last["error"] and result.returncode == 1


@pytest.mark.parametrize(("max_length", "end_token"), [(512, False), (40, True), (40, False)])
def test_cut_and_end_token_are_those_of_the_file(own_onnx, model_folder, tokenizer, tmp_path, max_length, end_token):
    template = "Passage: {context} Holding:"
    path = write_jsonl(tmp_path / "rows.jsonl", rows(6, num_candidates=2))
    changes = {"template": template, "max_length": str(max_length)}
    if not end_token:
        changes |= {"end_token": "", "end_token_id": "-1"}
    found = answers(run("--model", own_onnx(**changes), "--input", path))
    wanted = expected(model_folder, tokenizer, path, template=template, max_length=max_length, end_token=end_token)
    assert all(item["truncated"] > 0 for item in wanted) == (max_length == 40)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
        assert (ours["truncated"], ours["tokens"]) == (theirs["truncated"], theirs["tokens"])


def test_batches_change_nothing_but_the_last_digits(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(40, num_candidates=3) + rows(40, num_candidates=7, start=40))
    alone, together = (answers(run("--model", model, "--input", path, "--batch-tokens", n)) for n in (1, 100_000))
    assert [item["id"] for item in alone] == [item["id"] for item in together] == [f"q{n}" for n in range(80)]
    for one, other in zip(alone, together, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=TOLERANCE)


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_a_reference_makes_the_choice_by_log_ratio(model, reference, tokenizer, tmp_path, model_folder, score):
    reference_folder, reference_model = reference
    path = write_jsonl(tmp_path / "rows.jsonl", rows(12))
    result = run("--model", model, "--input", path, "--reference", reference_model, "--score", score)
    wanted = expected(model_folder, tokenizer, path)
    wanted_reference = expected(reference_folder, tokenizer, path)
    by_policy, by_ratio = [], []
    for answer, policy, base in zip(answers(result), wanted, wanted_reference, strict=True):
        assert list(answer)[4:6] == ["logprobs", "reference_logprobs"]
        assert answer["logprobs"] == pytest.approx(policy["logprobs"], abs=TOLERANCE)
        assert answer["reference_logprobs"] == pytest.approx(base["logprobs"], abs=TOLERANCE)
        policy["score"] = score
        by_policy.append(choose(score_values(policy)))
        by_ratio.append(choose(score_values(policy | {"reference_logprobs": base["logprobs"]})))
    assert [answer["prediction"] for answer in answers(result)] == by_ratio != by_policy


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"template": "{context} So:"}, "its template is not that of"),
        ({"max_length": "256"}, "its max length is not that of"),
        ({"end_token_id": "-1"}, "its end token is not that of"),
    ],
)
def test_a_reference_of_another_contract_is_refused(model, own_onnx, changes, what):
    result = run("--model", model, "--reference", own_onnx(**changes), text=lines(*rows(1)))
    assert result.returncode == 1 and what in one_line(result.stderr)


def test_labels_give_accuracy_and_rate(model):
    records = rows(10)
    result = run("--model", model, text=lines(*records))
    correct = sum(item["prediction"] == item["label"] for item in answers(result))
    assert f"%] {correct} of 10, " in result.stderr and "questions/s" in result.stderr
    for record in records:
        del record["label"]
    assert run("--model", model, text=lines(*records)).stderr == ""


def test_tokenize(model, tokenizer):
    texts = ["", "the lease", " caf\u00e9 cafe\u0301", "a\n\n b", "<|endoftext|>", "\U0001f468\u200d\U0001f469"]
    result = run("--model", model, "--tokenize", text=lines(*({"text": text} for text in texts)) + '{"ids": 1}\n')
    assert [item.get("ids") for item in answers(result)[:-1]] == [tokenizer(text)["input_ids"] for text in texts]
    assert "field 'text': is missing" in answers(result)[-1]["error"]
    assert result.returncode == 1 and one_line(result.stderr).startswith("error: stdin:7: ")


# ---- streams ----


def test_the_first_answer_leaves_before_the_second_question_comes(model):
    with subprocess.Popen([SCORE, "--model", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for record in rows(3):
            process.stdin.write(lines(record).encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == record["id"]
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_reader_that_leaves_ends_it_with_one_line(model):
    text = lines(*rows(1)) * 2000
    with subprocess.Popen(
        [SCORE, "--model", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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


def test_a_full_disk_ends_it_with_one_line(model):
    result = run("--model", model, "--output", "/dev/full", text=lines(*rows(1)))
    assert result.returncode == 1 and "No space left on device" in one_line(result.stderr)


def test_output_appears_whole_or_not_at_all(model, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with subprocess.Popen(
        [SCORE, "--model", model, "--output", folder / "a.jsonl"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(lines(*rows(2)).encode())
        process.stdin.flush()
        assert not (folder / "a.jsonl").exists()
        process.kill()
    # Where the file system has no files without a name, a temporary one stays behind.
    assert [path.suffix for path in folder.iterdir()] in ([], [".tmp"])
    assert run("--model", model, "--output", folder / "a.jsonl", text=lines(*rows(2))).returncode == 0
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


def test_a_bad_line_is_recorded_and_the_rest_is_scored(model, tmp_path):
    good = lines(*rows(1)).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(good + b"\n" + line + b"\n" for line, _ in BAD_LINES) + good)
    result = run("--model", model, "--input", path)
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
        (["--model", "m", "--score", "bytes"], "--score takes sum, mean or pmi, not 'bytes'"),
        (["--model", "m", "--score", "pmi", "--reference", "r"], "so it takes no --reference"),
        (["--model", "m", "--device", "tpu"], "--device takes cpu or cuda, not 'tpu'"),
        (["--model", "m", "--threads", "0"], "--threads takes a number from 1"),
        (["--model", "m", "--threads", "two"], "--threads takes a number from 1"),
        (["--model", "m", "--batch-tokens", "1e3"], "--batch-tokens takes a number from 1"),
    ],
)
def test_a_bad_flag_ends_with_2(flags, what):
    result = run(*flags)
    assert result.returncode == 2 and what in one_line(result.stderr) and result.stdout == b""


def test_on_a_bare_terminal_one_line_says_what_to_type(model):
    terminal, other_end = os.openpty()
    result = subprocess.run([SCORE, "--model", model], stdin=other_end, capture_output=True, text=True, timeout=60)
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
    if how == "graph broken":
        path.write_bytes(path.read_bytes().replace(b"MatMul", b"MutMal"))
        return "cannot be loaded"
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
    [
        "missing",
        "folder",
        "truncated",
        "no model",
        "graph broken",
        "weights missing",
        "weights truncated",
        "another tokenizer",
    ],
)
def test_a_broken_model_ends_with_one_line(own_onnx, how):
    path = own_onnx()
    what = break_model(path, how)
    result = run("--model", path, text=lines(*rows(1)))
    assert result.returncode == 1 and what in one_line(result.stderr) and result.stdout == b""


def test_a_mixture_of_exports_is_refused(own_onnx, reference):
    """The weights of another export, under their own name and named by the metadata."""
    _, other = reference
    [foreign] = other.parent.glob("*.data")
    path = own_onnx(data_file=foreign.name)
    shutil.copy(foreign, path.parent)
    result = run("--model", path, text=lines(*rows(1)))
    assert result.returncode == 1 and "which are not those it was exported with" in one_line(result.stderr)


def test_a_model_of_another_graph_is_refused(tmp_path, own_onnx):
    path = own_onnx()
    graph = onnx.load(path, load_external_data=False)
    graph.graph.output[0].name = "logits"
    for node in graph.graph.node:
        node.output[:] = ["logits" if name == "logprobs" else name for name in node.output]
    onnx.save(graph, path)
    result = run("--model", path, text=lines(*rows(1)))
    assert result.returncode == 1 and "logprobs" in one_line(result.stderr)


def test_cuda_gives_the_same_or_says_in_one_line_why_not(model):
    on_cuda, on_cpu = (run("--model", model, "--device", device, text=lines(*rows(3))) for device in ("cuda", "cpu"))
    if on_cuda.returncode == 0:
        for ours, theirs in zip(answers(on_cuda), answers(on_cpu), strict=True):
            assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=10 * TOLERANCE)
    else:
        assert on_cuda.returncode == 1 and "device cuda: " in one_line(on_cuda.stderr)


def test_bad_input_and_output_names_end_with_one_line(model, tmp_path):
    for flags in (["--input", tmp_path / "none"], ["--input", tmp_path], ["--output", tmp_path / "no" / "file"]):
        result = run("--model", model, *flags, text=lines(*rows(1)))
        assert result.returncode == 1 and str(tmp_path) in one_line(result.stderr)


# ---- the C++ unit tests ----


def ctest(folder: Path) -> None:
    installed = ROOT / ".venv" / "bin" / "ctest"
    program = str(installed) if installed.exists() else "ctest"
    subprocess.run([program, "--test-dir", folder, "--output-on-failure", "--timeout", "120"], check=True)


def test_unit_tests():
    ctest(BUILD)


@pytest.mark.slow
def test_unit_tests_under_the_sanitizers(sanitized):
    ctest(sanitized)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fuzz_reader", "fuzz_tokenizer"])
def test_fuzzing_finds_nothing(sanitized, target):
    """Another seed every time, a minute each; the message names the seed of a finding."""
    subprocess.run([sanitized / "tests" / target, "60", str(time.time_ns())], check=True)
