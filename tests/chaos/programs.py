"""Every program that writes, on small input, and what it leaves where nothing disturbs it. A pytest plugin of the
tests beside it, which disturb them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, SCORE, opinions, rows, write_jsonl

from lib.paths import INCOMPLETE

MEASURED = ("seconds", "per_second", "memory", "gflops", "share_of_peak")  # in names of values that no two runs share
NAMES = ("train", "evaluate", "export", "mine", "pretrain", "sweep", "score")


@dataclass(frozen=True)
class Program:
    """command: given in a folder of its own. output: the file or folder that it leaves there. resume: the command that
    goes on once the path `begun` stands; without one the command itself is given again."""

    name: str
    command: list[str]
    output: str
    resume: list[str] | None = None
    begun: str = ""

    def start(self, folder: Path, **options) -> subprocess.Popen:
        """Start it or let it go on, in a process group of its own."""
        goes_on = self.resume and (folder / self.begun).exists()
        return subprocess.Popen(
            self.resume if goes_on else self.command,
            cwd=folder,
            # PEFT writes a set: in one order under one hash seed.
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, folder: Path, **options) -> subprocess.CompletedProcess:
        return ended(self.start(folder, **options))


def ended(child: subprocess.Popen) -> subprocess.CompletedProcess:
    out, err = child.communicate(timeout=600)
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


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


def script(name: str, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / name), *flags]


@dataclass(frozen=True)
class Undisturbed:
    seconds: float
    result: dict[str, object]
    num_bytes: int


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


def files_of(output: Path) -> list[Path]:
    """Without what a killed process left half-written, under a name that says so."""
    if output.is_file():
        return [output]
    files = (path for path in output.rglob("*") if path.is_file())
    return sorted(path for path in files if INCOMPLETE not in str(path.relative_to(output)))


def result(output: Path) -> dict[str, object]:
    """What of an output must be the same each time: every file by its name within, without what a clock says."""
    kept = [path for path in files_of(output) if path.suffix not in (".png", ".log", ".lock")]
    return {str(path.relative_to(output)): content(path) for path in kept if "checkpoints" not in path.parts}


def content(path: Path) -> object:
    if path.suffix == ".json":
        return without_clock(json.loads(path.read_text(encoding="utf-8")))
    if path.name == "metrics.jsonl":
        return [without_clock(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return path.read_bytes()


def without_clock(value):
    if isinstance(value, dict):
        return {key: without_clock(one) for key, one in value.items() if not any(word in key for word in MEASURED)}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


def last_line(done: subprocess.CompletedProcess) -> str:
    """The line that says why a program ended with 1; fails where a traceback says it, or nothing does."""
    assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
    assert lines and re.match(r"(score: )?error: ", lines[-1]), done.stderr[-2000:]
    return lines[-1]
