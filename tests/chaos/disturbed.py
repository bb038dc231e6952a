"""Pytest plugin of the tests beside it: every program that writes, on small input, and what it leaves where nothing
disturbs it."""

import time
from collections.abc import Callable

import pytest
from conftest import SCORE, opinions, rows, write_jsonl
from programs import Program, Undisturbed, files_of, result, script


@pytest.fixture(scope="session")
def programs(tmp_path_factory, model_folder, data_folder, onnx_model, scorer) -> dict[str, Program]:
    """Every program that writes, on small input."""
    folder = tmp_path_factory.mktemp("input")
    write_jsonl(folder / "opinions" / "opinions.jsonl", opinions(60))
    write_jsonl(folder / "text" / "text.jsonl", opinions(20))
    questions = write_jsonl(folder / "questions.jsonl", rows(400))
    given = ["--model", str(model_folder), "--data", str(data_folder)]
    train = [*given, "--epochs", "2", "--save-every", "1", "--output", "out"]
    pretrain = ["--text", str(folder / "text"), "--params", "5m", "--vocab", "400", "--row-length", "64"]
    pretrain += ["--batch-size", "64", "--epochs", "1", "--save-every", "1", "--precision", "fp32", "--output", "out"]
    sweep = [*given, "--loss", "sdpo", "--num-neg", "1", "--seed", "0", "--epochs", "1", "--output", "out"]
    score = [str(SCORE), "--model", str(onnx_model), "--input", str(questions), "--output", "out.jsonl"]
    resume = ["--resume", "--output", "out"]
    made = (
        Program("train", script("train_sdpo.py", *train), "out", script("train_sdpo.py", *resume), "out/run.json"),
        Program("evaluate", script("eval_mc.py", *given[:3], str(questions), "--output", "out.jsonl"), "out.jsonl"),
        Program("export", script("export.py", *given, "--output", "out/model.onnx"), "out"),
        Program("mine", script("tools/mine_holdings.py", str(folder / "opinions"), "--output", "out"), "out"),
        Program(
            "pretrain",
            script("tools/pretrain_lm.py", *pretrain),
            "out",
            script("tools/pretrain_lm.py", *resume),
            "out/pretraining/run.json",
        ),
        Program("sweep", script("tools/sweep.py", *sweep), "out"),
        Program("score", score, "out.jsonl"),
    )
    return {program.name: program for program in made}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, programs) -> Callable[[str], Undisturbed]:
    """How long a program takes where nothing disturbs it, and what it leaves."""
    known: dict[str, Undisturbed] = {}

    def of(name: str) -> Undisturbed:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            began = time.monotonic()
            done = programs[name].run(folder)
            assert done.returncode == 0, done.stderr
            seconds, output = time.monotonic() - began, folder / programs[name].output
            known[name] = Undisturbed(seconds, result(output), sum(path.stat().st_size for path in files_of(output)))
        return known[name]

    return of
