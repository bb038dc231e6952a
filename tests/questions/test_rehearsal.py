"""The three commands at their defaults on the hub's cache, offline: made-up CaseHOLD with every oddity that real rows
have been seen to hold, and a random model of Qwen2.5-0.5B's name."""

import json
import random
import re
import subprocess
import sys

import pyarrow.parquet
import pytest
from conftest import CASEHOLD, QWEN2_TOKENIZER, ROOT, needs_casehold, rows, run_python, write_jsonl

from lib.questions.data import MASK, STRIP, load_split

sys.path.append(str(ROOT / "benchmarks"))
import make_rehearsal  # noqa: E402

ROWS = {"train": 120, "validation": 40, "test": 200}


@pytest.fixture
def made(tmp_path):
    real = load_split(str(write_jsonl(tmp_path / "rows.jsonl", rows(40))), "test").questions
    return list(make_rehearsal.make_rows(real, 100, random.Random(0)))


def test_the_rows_hold_every_oddity(made):
    def endings(row: dict) -> list[str]:
        return [ending.strip(STRIP) for ending in row["endings"]]

    assert len(made) == 100
    assert all(len(row["endings"]) == 5 and 0 <= row["label"] < 5 for row in made)
    longest = max((ending for row in made for ending in row["endings"]), key=len)
    assert len(longest) == make_rehearsal.LONG_ENDING
    assert {row["endings"][row["label"]] == longest for row in made if longest in row["endings"]} == {True, False}
    assert sum("" in endings(row) for row in made) == 2
    assert sum(len(set(endings(row))) < 5 for row in made) == 2
    assert sum(MASK not in row["context"] for row in made) == 1
    assert any(make_rehearsal.UNUSUAL in row["context"] for row in made)
    assert any(re.search(r"\S\s{3,}\S", ending) for row in made for ending in row["endings"])


def test_texts_are_spliced_and_seldom_stand_twice(made):
    real = {row["context"] for row in rows(40)}
    contexts = [row["context"] for row in made]
    assert len(set(contexts) - real) > 60
    assert len(set(contexts)) > 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scorer):
    """Where the commands ran, as a user types them; what each printed is in NAME.txt."""
    folder = tmp_path_factory.mktemp("rehearsal")
    flags = ["--output", folder / "hub", "--rows", *ROWS.values(), "--size", "0.01b", "--merges", 8000]
    flags += ["--questions", CASEHOLD, "--tokenizer", QWEN2_TOKENIZER]
    run_python(ROOT / "benchmarks" / "make_rehearsal.py", *flags, cwd=folder)
    for script, *flags in (
        ["train_sdpo.py", "--num-neg", 4, "--epochs", 1, "--batch-size", 8],
        ["eval_mc.py", "--split", "test", "--output", "python.jsonl"],
        ["export.py"],
    ):
        printed = run_python(ROOT / script, *flags, cwd=folder, HF_HOME=str(folder / "hub")).stdout
        (folder / script).with_suffix(".txt").write_text(printed)
    table = pyarrow.parquet.read_table(folder / "hub" / "lex_glue" / "case_hold" / "test-00000-of-00001.parquet")
    write_jsonl(folder / "test.jsonl", table.to_pylist())
    with (folder / "test.jsonl").open() as questions, (folder / "cpp.jsonl").open("w") as predictions:
        scored = subprocess.run(
            [scorer, "--model", "model.onnx"], stdin=questions, stdout=predictions, stderr=subprocess.PIPE, cwd=folder
        )
    assert scored.returncode == 0, scored.stderr
    return folder


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@needs_casehold
def test_cpp_cuts_and_chooses_as_python_on_every_row(folder):
    ours, theirs = read(folder / "python.jsonl"), read(folder / "cpp.jsonl")
    assert len(ours) == len(theirs) == ROWS["test"]
    for python, cpp in zip(ours, theirs, strict=True):
        for field in ("id", "prediction", "label", "tokens", "bytes", "truncated", "contract"):
            assert cpp[field] == python[field], (python["id"], field)
        assert cpp.get("endings_truncated") == python.get("endings_truncated")
        assert cpp["logprobs"] == pytest.approx(python["logprobs"], rel=1e-5, abs=2e-3)


@pytest.mark.slow
@needs_casehold
def test_what_was_cut_is_counted(folder):
    """The two endings of 93,974 characters, and contexts: the records say what the commands print."""
    records, printed = read(folder / "python.jsonl"), (folder / "eval_mc.txt").read_text()
    cut = sum("endings_truncated" in record for record in records)
    assert cut == 2
    assert f"{cut} with an ending cut on its right" in printed
    assert f"{sum(record['truncated'] > 0 for record in records)} cut on the left of the context" in printed
    assert "2 with an empty ending" in printed and "with two equal endings" in printed
    trained = (folder / "train_sdpo.txt").read_text()
    assert "2 with an ending cut on its right" in trained
    assert "dropped: 2 questions whose positive is empty or equals a negative" in trained
