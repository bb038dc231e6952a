"""The programs that write, how they are run, and what they leave."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

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


def script(name: str, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / name), *flags]


@dataclass(frozen=True)
class Undisturbed:
    seconds: float
    result: dict[str, object]
    num_bytes: int


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
