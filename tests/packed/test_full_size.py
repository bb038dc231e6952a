"""The whole way at full size: the 0.5B architecture (random weights), real questions, the real tokenizer."""

import json
import os
import subprocess

import pytest
from conftest import CASEHOLD, QWEN2_TOKENIZER, ROOT, SCORE, needs_casehold, run_python

from lib.models.runs import read_metrics

MODEL = ROOT / ".cache" / "random-0.5b"

pytestmark = [pytest.mark.slow, needs_casehold]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """16 questions, at the defaults, in fp32."""
    if not MODEL.is_dir():
        flags = ["--output", MODEL, "--tokenizer", QWEN2_TOKENIZER]
        run_python(ROOT / "benchmarks" / "make_random_model.py", *flags, cwd=ROOT)
    folder = tmp_path_factory.mktemp("full-size")
    flags = ["--model", MODEL, "--data", CASEHOLD, "--num-neg", 4, "--limit", 16, "--epochs", 1]
    run_python(ROOT / "train_sdpo.py", *flags, "--output", "runs/real", cwd=folder)
    return folder / "runs" / "real"


@pytest.fixture(scope="module")
def model(run_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    flags = ["--model", run_folder, "--output", path, "--data", CASEHOLD, "--limit", 4]
    run_python(ROOT / "export.py", *flags, cwd=path.parent)
    return path


def test_training_begins_at_ln_5_and_fits_8_gb(run_folder):
    steps = [line for line in read_metrics(run_folder) if "loss" in line]
    assert f"{steps[0]['loss']:.4f}" == "1.6094"
    assert steps[-1]["peak_memory_gb"] <= 8


def test_cpp_equals_python(run_folder, model, scorer):
    flags = ["--model", run_folder, "--onnx", model, "--data", CASEHOLD, "--limit", 12]
    run_python(ROOT / "benchmarks" / "scorer_parity.py", *flags, cwd=ROOT)


@pytest.mark.parametrize("num_questions", [2, 20])
def test_the_scorers_memory_is_the_weights_and_little_more(model, scorer, tmp_path, num_questions):
    """At most 1.4 times the weights, whatever the number of questions: the longest of the first 200."""
    with (CASEHOLD / "test.jsonl").open(encoding="utf-8") as lines:
        longest = sorted((next(lines) for _ in range(200)), key=len)[-num_questions:]
    (tmp_path / "questions.jsonl").write_text("".join(longest), encoding="utf-8")
    process = subprocess.Popen(
        [SCORE, "--model", model, "--input", tmp_path / "questions.jsonl"], stdout=subprocess.PIPE, text=True
    )
    answers = [json.loads(line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0 and len(answers) == num_questions
    [weights] = model.parent.glob("*.data")
    assert usage.ru_maxrss * 1024 <= 1.4 * weights.stat().st_size
