"""The C++ scorer as its user meets it: the same answers as Python, streams, and a true exit code for every fault."""

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from conftest import ROOT, SCORE, VOCAB_SIZE, build_scorer, rows, tiny_model, write_jsonl

import eval_mc
from lib.errors import InputError
from lib.evaluation.scores import Scored, choose, score_values
from lib.export.files import contract_in, read_export
from lib.packed.inference import share_equal
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import default_contract

BUILD = ROOT / "cpp_scorer" / "build"
SANITIZED = ROOT / "cpp_scorer" / "build-sanitize"
TOLERANCE = 1e-3  # of a log-prob near -100, in fp32
SOME_ROWS_FAILED = 3  # exit code: everything is done, but some rows are error records

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
    {"id": "long", "context": "the tenant " * 200, "endings": ["affirmed", "the lease is void " * 200], "label": 0},
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
        (folder / "model.golden.jsonl").unlink()  # of the export as it was
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
    prompt = replace(default_contract(data.default_template, tokenizer), **config)
    encoded = encode_questions(data.questions, tokenizer, prompt)
    scorer = PackedScorer(type(tiny_model()).from_pretrained(folder).eval())
    with torch.no_grad():
        logprobs = [share_equal(scorer(pack([item]))[0].tolist(), item.ending_ids) for item in encoded]
    return Scored(encoded, logprobs, contract=prompt.digest).predictions(score)


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
    assert wanted[-2]["truncated"] > 0 and wanted[-1]["endings_truncated"][1] > 0
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
SAID = '{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}'
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
        f'{{"prompt": {prompt}, "chosen": {chosen}, "rejected": {rejected}, "source": "s", "responses": 1}}'
        for prompt in ('"p"', f"[{SAID}]", '[{"role": "user", "content": "p"}]', "[]")
        for chosen in ('"a"', f"[{SAID}]", "null", "[{}]")
        for rejected in ('"b"', '["b", "c"]', f"[{SAID}]", f'[[{SAID}], "c"]', "[]", '["b", {}]', "[[]]")
    ),
    '{"chosen": "a", "rejected": "b"}',
    '{"prompt": "p", "chosen": "a"}',
    '{"prompt": "p", "rejected": "a"}',
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
    prompts = [default_contract(f"{{{field}}} Holding:", tokenizer) for field in fields]
    models = {
        field: own_onnx(template=prompt.template, contract=prompt.digest)
        for field, prompt in zip(fields, prompts, strict=True)
    }
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
    assert "field 'year' is missing" in last["error"] and result.returncode == SOME_ROWS_FAILED


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


def test_start_token_and_bound_of_endings_are_those_of_the_file(own_onnx, model_folder, tokenizer, tmp_path):
    """The start token is any token here: this model's own tokenizer puts none."""
    path = write_jsonl(tmp_path / "rows.jsonl", rows(6) + [CONTRACT_ROWS[-1]])
    start = tokenizer("the", add_special_tokens=False)["input_ids"][0]
    found = answers(run("--model", own_onnx(max_ending="8", start_token_id=str(start)), "--input", path))
    opening = copy.deepcopy(tokenizer)
    opening.bos_token = tokenizer.convert_ids_to_tokens(start)
    wanted = expected(model_folder, opening, path, max_ending=8, start_token=True)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
        for field in ("truncated", "endings_truncated", "tokens"):
            assert ours.get(field) == theirs.get(field)
    assert all(max(record["tokens"]) == 8 for record in found)


def test_files_of_format_1_are_scored_as_they_were(own_onnx, model_folder, tokenizer, tmp_path):
    """Their keys know neither: endings are not cut, and one that exceeds the limit alone is an error record."""
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows(3), CONTRACT_ROWS[-1]])
    old = own_onnx(format_version="1", max_ending="no number", start_token_id="")
    *found, last = answers(run("--model", old, "--input", path))
    good = write_jsonl(tmp_path / "good.jsonl", rows(3))
    for ours, theirs in zip(found, expected(model_folder, tokenizer, good, max_ending=None), strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=TOLERANCE)
    assert "endings and template need" in last["error"]
    assert contract_in(read_export(old)).max_ending is None


def varied_rows(count: int) -> list[dict]:
    """Questions of many lengths, down to a row of two tokens, each next to some of its own length."""
    made = []
    for number, record in enumerate(rows(count)):
        words = record["context"].split()
        record["context"] = " ".join(words * (1 + number // 8 % 3))[: 1 + 5 * (number // 4)]
        record["endings"] = [ending[: 1 + (number * 7 + k * 5) % 40] for k, ending in enumerate(record["endings"])]
        made.append(record | {"endings": record["endings"][: 2 + number // 4 % 4], "label": 0})
    return made


@pytest.mark.parametrize("flags", [("--threads", 1), ("--threads", 2), ("--threads", 1, "--score", "pmi")])
def test_a_log_prob_does_not_depend_on_the_batch(model, tmp_path, flags):
    """To the last digit, so that a file gives the same predictions however it comes."""
    path = write_jsonl(tmp_path / "rows.jsonl", varied_rows(160))
    flags = ("--model", model, *flags)
    alone, default, large = (run(*flags, "--input", path, "--batch-tokens", n).stdout for n in (1, 512, 100_000))
    assert len(alone.splitlines()) == 160 and b"error" not in alone
    assert default == alone and large == alone


def test_a_slow_pipe_gives_what_a_file_gives(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", varied_rows(60))
    with subprocess.Popen([SCORE, "--model", model], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        found = b""
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            process.stdin.write(line)
            if number % 7 in (0, 3):  # alone, or with those that lie ready: every answer comes while the input stalls
                process.stdin.flush()
                found += b"".join(process.stdout.readline() for _ in range(number + 1 - found.count(b"\n")))
        found += process.communicate()[0]
    assert found == run("--model", model, "--input", path).stdout


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_a_reference_makes_the_choice_by_log_ratio(model, reference, tokenizer, tmp_path, model_folder, score):
    reference_folder, reference_model = reference
    path = write_jsonl(tmp_path / "rows.jsonl", rows(12))
    result = run("--model", model, "--input", path, "--reference", reference_model, "--score", score)
    wanted = expected(model_folder, tokenizer, path)
    wanted_reference = expected(reference_folder, tokenizer, path)
    by_policy, by_ratio = [], []
    assert result.returncode == 0, result.stderr
    for answer, policy, base in zip(answers(result), wanted, wanted_reference, strict=True):
        assert list(answer)[4:6] == ["logprobs", "reference_logprobs"]
        assert answer["logprobs"] == pytest.approx(policy["logprobs"], abs=TOLERANCE)
        assert answer["reference_logprobs"] == pytest.approx(base["logprobs"], abs=TOLERANCE)
        assert answer["score"] == ("reward" if score == "sum" else score)
        policy["score"] = score
        by_policy.append(choose(score_values(policy)))
        by_ratio.append(choose(score_values(policy | {"reference_logprobs": base["logprobs"]})))
    assert [answer["prediction"] for answer in answers(result)] == by_ratio != by_policy
    assert result.stderr.startswith(f"accuracy ({answer['score']}): ")


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
    assert result.returncode == SOME_ROWS_FAILED and one_line(result.stderr).startswith("error: stdin:7: ")


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


# ---- what was scored is kept ----


@pytest.fixture
def running(model, tmp_path):
    """A scorer that has written five answers of its --output, and waits for more: the process and the folder."""
    started = []

    def start(*before: str, stdin=subprocess.PIPE, **options) -> tuple[subprocess.Popen, Path]:
        folder = tmp_path / "out"
        folder.mkdir()
        command = [*before, SCORE, "--model", model, "--output", folder / "out.jsonl"]
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        started.append(process)
        if stdin == subprocess.PIPE:
            process.stdin.write(lines(*rows(5)).encode())
            process.stdin.flush()
        wait_until(lambda: count_answers(folder) == 5)
        return process, folder

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def count_answers(folder: Path) -> int:
    """Lines of what the scorer keeps so far; a file that it makes only to see that it can may be gone again."""
    with contextlib.suppress(FileNotFoundError):
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.partial"))
    return 0


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def wait_until_full(reader) -> None:
    """Until no more comes into a pipe that nobody reads."""

    def lies_ready() -> int:
        return struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]

    def is_full() -> bool:
        before = lies_ready()
        time.sleep(0.2)
        return lies_ready() == before > 0

    wait_until(is_full)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and message, once it ends by itself: its input stays open."""
    process.wait(timeout=60)
    return process.returncode, process.stderr.read().decode()


def kept_answers(folder: Path) -> list[dict]:
    [path] = folder.glob("*.partial")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_output_appears_whole_or_not_at_all(running, tmp_path):
    process, folder = running()
    assert not (folder / "out.jsonl").exists()
    process.communicate(lines(*rows(2, start=5)).encode(), timeout=60)
    assert process.returncode == 0
    assert [path.name for path in folder.iterdir()] == ["out.jsonl"]
    assert len((folder / "out.jsonl").read_text().splitlines()) == 7


def test_a_killed_run_leaves_its_answers_and_blocks_no_later_one(running, model):
    process, folder = running()
    process.kill()
    process.wait()
    assert [answer["id"] for answer in kept_answers(folder)] == ["q0", "q1", "q2", "q3", "q4"]
    assert run("--model", model, "--output", folder / "out.jsonl", text=lines(*rows(2))).returncode == 0
    assert len((folder / "out.jsonl").read_text().splitlines()) == 2 and len(kept_answers(folder)) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_names_what_is_kept(running, number):
    process, folder = running()
    process.send_signal(number)
    [kept] = folder.glob("*.partial")
    assert ended(process) == (128 + number, f"error: ended by {number.name}; what was answered is in '{kept}'\n")
    assert len(kept_answers(folder)) == 5


def test_a_signal_ends_it_while_its_reader_stalls(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(8) * 100)
    process = subprocess.Popen(
        [SCORE, "--model", model, "--input", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until_full(process.stdout)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert one_line(process.communicate()[1].decode()) == "error: ended by SIGTERM\n"


def test_a_signal_before_the_first_answer_leaves_nothing(model, tmp_path):
    fifo = tmp_path / "in"
    os.mkfifo(fifo)
    command = [SCORE, "--model", model, "--input", fifo, "--output", tmp_path / "out.jsonl"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    # It waits for somebody who writes to the pipe, its signals taken.
    status = Path(f"/proc/{process.pid}/status")
    wait_until(lambda: int(status.read_text().split("SigBlk:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)
    process.terminate()
    assert ended(process) == (128 + signal.SIGTERM, "error: ended by SIGTERM\n")
    assert list(tmp_path.iterdir()) == [fifo]


def test_an_ignored_signal_stays_ignored(running):
    process, folder = running("nohup")
    process.send_signal(signal.SIGHUP)
    process.communicate(lines(*rows(1)).encode(), timeout=60)
    assert process.returncode == 0
    assert len((folder / "out.jsonl").read_text().splitlines()) == 6


def test_a_signal_ends_it_as_process_1_too(running):
    """For process 1 the default of SIGTERM is to do nothing."""
    if subprocess.run(["unshare", "-rpf", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process namespace (unshare -rpf)")
    process, folder = running("unshare", "-rpf")
    child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
    os.kill(int(child), signal.SIGTERM)
    code, message = ended(process)
    assert code == 128 + signal.SIGTERM and message.startswith("error: ended by SIGTERM; what was answered is in ")
    assert len(kept_answers(folder)) == 5


def test_a_target_that_became_a_folder_leaves_the_answers(running):
    process, folder = running()
    (folder / "out.jsonl" / "inside").mkdir(parents=True)
    process.stdin.close()
    code, message = ended(process)
    [kept] = folder.glob("*.partial")
    assert code == 1 and one_line(message) == (
        f"error: {folder}/out.jsonl: cannot be given its name (Is a directory); what was answered is in '{kept}'\n"
    )
    assert len(kept_answers(folder)) == 5


def test_a_disk_that_fills_leaves_the_whole_lines(model, tmp_path):
    """A limit on the size of files is what a full disk is, but for its name."""
    command = [SCORE, "--model", model, "--output", tmp_path / "out.jsonl"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # noqa: E731
    result = subprocess.run(
        command, input=lines(*rows(100)).encode(), capture_output=True, timeout=60, preexec_fn=limit
    )
    [kept] = tmp_path.iterdir()
    message = f"out.jsonl: cannot be written (File too large); what was answered is in '{kept}'\n"
    assert result.returncode == 1 and one_line(result.stderr.decode()).endswith(message)
    assert 3 < len(kept_answers(tmp_path)) < 20


def test_an_input_that_fails_leaves_the_answers(running):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        ours.sendall(lines(*rows(5)).encode())
        with theirs:
            process, folder = running(stdin=theirs)
        # Closed with a reset.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        code, message = ended(process)
    assert code == 1 and one_line(message).startswith("error: stdin: cannot be read (Connection reset by peer); what ")
    assert len(kept_answers(folder)) == 5


def test_a_file_mounted_into_a_folder_that_cannot_be_written_to(model, tmp_path):
    """As a container has it: neither can a file stand beside it, nor be renamed to it."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount namespace (unshare -rm)")
    real, seen = tmp_path / "real", tmp_path / "seen"
    real.mkdir(), seen.mkdir()
    (real / "out.jsonl").write_text("old\n" * 1000)
    mount = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && mount --bind "$1/$3" "$2/$3" && shift 3 && "$@"'
    command = ["unshare", "-rm", "sh", "-ec", mount, "sh", real, seen, "out.jsonl", SCORE, "--model", model]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [*command, "--output", seen / "out.jsonl"], input=lines(*rows(3)).encode(), capture_output=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert len([json.loads(line) for line in (real / "out.jsonl").read_text().splitlines()]) == 3
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    "shell",
    [
        '"$@" --output /dev/stdout | cat',
        '"$@" --output /dev/fd/1 | cat',
        '"$@" --output /dev/stderr 2>&1 >/dev/null | grep "^{"',
        '"$@" --output >(cat >"$OUT"); wait $!; cat "$OUT"',
        'echo before >"$OUT"; "$@" --output /dev/stdout >>"$OUT"; grep -q before "$OUT"; grep -v before "$OUT"',
    ],
)
def test_an_open_descriptor_is_written_to_as_it_is(model, tmp_path, shell):
    environment = os.environ | {"OUT": str(tmp_path / "out")}
    command = ["bash", "-eo", "pipefail", "-c", shell, "bash", SCORE, "--model", model]
    result = subprocess.run(command, input=lines(*rows(3)).encode(), capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert [answer["id"] for answer in answers(result)] == ["q0", "q1", "q2"]
    assert [path.name for path in tmp_path.iterdir()] in ([], ["out"])


def test_a_pipe_that_does_not_wait_gets_every_line(model, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows(8) * 100)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen([SCORE, "--model", model, "--input", path], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        wait_until_full(reader)
        with open(reader, "rb") as file:
            assert len(file.read().splitlines()) == 800
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("redirection", "what"),
    [("<&-", "stdin: cannot be read (Bad file descriptor)"), (">&-", "stdout: cannot be opened (Bad file descriptor)")],
)
def test_a_closed_stream_ends_it_with_one_line(model, redirection, what):
    command = ["bash", "-c", f'"$@" {redirection}', "bash", SCORE, "--model", model]
    result = subprocess.run(command, input=lines(*rows(2)).encode(), capture_output=True, timeout=60)
    assert result.returncode == 1 and one_line(result.stderr.decode()) == f"error: {what}\n" and result.stdout == b""


# ---- every fault has its line and a true code ----


BAD_LINES = [
    (b'{"context": "c"', "broken JSON or not UTF-8"),
    (b'{"context": "caf\xe9", "endings": ["a", "b"]}', "broken JSON or not UTF-8"),
    (rb'{"context": "\ud800", "endings": ["a", "b"]}', "broken JSON or not UTF-8"),
    (b'{"id": "x", "context": "c", "endings": ["a"]}', "field 'endings': 1 candidates"),
    (b'{"id": 5, "context": "c", "endings": ["a", "b"], "label": 2}', "field 'label': names none of the 2"),
    (b'{"context": " ", "endings": ["a", "b"]}', "the prompt is empty"),
    (b'{"question": "c", "choices": ["a", "b"]}', "field 'context' is missing"),
    (b'{"context": "c", "endings": [%s]}' % (b'"%s", ' % (b"a deed " * 60) * 200 + b'"a"'), "over the limit of 4096"),
    (b'{"context": "c", "endings": [%s"a"]}' % (b'"a", ' * 1024), "1025 candidates, over the limit of 1024"),
    (b'{"context": "%s", "endings": ["a", "b"]}' % (b"x" * 4194304), "longer than 4194304 bytes (--max-line-bytes)"),
]


def test_a_bad_line_is_recorded_and_the_rest_is_scored(model, tmp_path):
    good = lines(*rows(1)).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(good + b"\n" + line + b"\n" for line, _ in BAD_LINES) + good)
    result = run("--model", model, "--input", path)
    found = answers(result)
    assert result.returncode == SOME_ROWS_FAILED
    assert [item["id"] for item in found[::2]] == ["q0"] * (len(BAD_LINES) + 1) and "prediction" in found[0]
    assert len({json.dumps(item) for item in found[::2]}) == 1
    *messages, summary = result.stderr.splitlines()
    assert summary.startswith("accuracy")
    for number, ((_, what), record, message) in enumerate(zip(BAD_LINES, found[1::2], messages, strict=True)):
        assert list(record) == ["id", "error"] and what in record["error"]
        assert record["id"] == {3: "x", 4: "5"}.get(number, str(2 * number + 1))
        assert message == f"error: {path}:{3 * number + 3}: {record['error']}"


def test_limits_are_exact_and_named(model, tokenizer):
    [record] = rows(1)
    line = lines(record).encode()
    texts = [record["context"], *(f" {ending}<|endoftext|>" for ending in record["endings"])]
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    for flag, count, what in (
        ("--max-candidates", 5, "5 candidates, over the limit of 4 (--max-candidates)"),
        (
            "--max-row-tokens",
            tokens,
            f"prompt and endings make {tokens} tokens, over the limit of {tokens - 1} (--max-",
        ),
        ("--max-line-bytes", len(line) - 1, f"the line is longer than {len(line) - 2} bytes (--max-line-bytes)"),
    ):
        assert run("--model", model, flag, count, text=line).returncode == 0
        result = run("--model", model, flag, count - 1, text=line)
        assert answers(result)[0]["error"].startswith(what) and result.returncode == SOME_ROWS_FAILED


def test_a_row_that_cannot_be_run_is_one_error_record(own_onnx):
    """Its token has an id for which the model has no embedding, which only the run can tell."""
    path = own_onnx()
    file = path.parent / "tokenizer.json"
    content = json.loads(file.read_text())
    token = {"id": VOCAB_SIZE, "content": "<unknown>", "single_word": False, "lstrip": False, "rstrip": False}
    assert max(content["model"]["vocab"].values()) < VOCAB_SIZE
    content["added_tokens"].append(token | {"normalized": False, "special": True})
    file.write_text(json.dumps(content))
    graph = onnx.load(path, load_external_data=False)
    for entry in graph.metadata_props:
        if entry.key == "tokenizer_sha256":
            entry.value = hashlib.sha256(file.read_bytes()).hexdigest()
    onnx.save(graph, path)

    good = rows(20)
    bad = good[10] | {"context": "<unknown>" + good[10]["context"]}
    result = run("--model", path, "--batch-tokens", 2000, text=lines(*good[:10], bad, *good[11:]))
    found = answers(result)
    assert "the model cannot be run" in found[10]["error"] and found[10]["id"] == "q10"
    whole = answers(run("--model", path, "--batch-tokens", 2000, text=lines(*good)))
    assert found[:10] + found[11:] == whole[:10] + whole[11:]
    assert result.returncode == SOME_ROWS_FAILED
    message, summary = result.stderr.splitlines()
    assert message.startswith("error: stdin:11: ") and " of 19, " in summary


def test_an_empty_input_is_an_error(model, tmp_path):
    """As in Python: what should have written it has failed."""
    (tmp_path / "out.jsonl").write_text("old")
    result = run("--model", model, "--output", tmp_path / "out.jsonl", text=" \n\n")
    assert result.returncode == 1 and one_line(result.stderr) == "error: stdin: there are no questions in it\n"
    assert (tmp_path / "out.jsonl").read_text() == "old"


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ([], "--model is missing"),
        (["--nonsense"], "'--nonsense' is no flag"),
        (["-x"], "'-x' is no flag"),
        (["-xy"], "'-xy' is no flag"),
        (["--mod", "m"], "'--mod' is no flag"),
        (["--tokenize=yes"], "'--tokenize=yes' is no flag"),
        (["question.jsonl"], "'question.jsonl' is no flag"),
        (["--model", "m", "question.jsonl", "--threads", "1"], "'question.jsonl' is no flag"),
        (["--model"], "--model needs a value"),
        (["--model", "m", "--reference="], "--reference needs a value"),
        (["--model", "m", "--score", "bytes"], "--score takes sum, mean or pmi, not 'bytes'"),
        (["--model", "m", "--score", "pmi", "--reference", "r"], "so it takes no --reference"),
        (["--model", "m", "--device", "tpu"], "--device takes cpu or cuda, not 'tpu'"),
        (["--model", "m", "--threads", "0"], "--threads takes a number from 1"),
        (["--model", "m", "--threads", "two"], "--threads takes a number from 1"),
        (["--model", "m", "--batch-tokens", "1e3"], "--batch-tokens takes a number from 1"),
        (["--model", "m", "--max-row-tokens=0"], "--max-row-tokens takes a number from 1"),
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
@pytest.mark.parametrize("target", ["fuzz_reader", "fuzz_tokenizer", "fuzz_http"])
def test_fuzzing_finds_nothing(sanitized, target):
    """Another seed every time, a minute each; the message names the seed of a finding."""
    subprocess.run([sanitized / "tests" / target, "60", str(time.time_ns())], check=True)
