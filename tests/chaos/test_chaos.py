"""Programs that are killed, whose disk fills up, whose files are damaged, or that meet at work: nothing is lost
that was computed, nothing half-written counts, and no answer is wrong.

CHAOS_KILLS=100 raises the number of kills of each program; what was done is printed with `pytest -s`.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, SCORE, opinions, rows, write_jsonl

import eval_mc
import train_sdpo
from lib.errors import InputError
from lib.packed import reference

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHAOS_KILLS", 20))  # of each program
FILLS = (0.1, 0.5, 0.9)  # of the bytes that a program leaves, as room for them
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


@pytest.fixture(scope="module")
def programs(tmp_path_factory, model_folder, data_folder, onnx_model, scorer) -> dict[str, Program]:
    """Every program that writes, on small input."""
    folder = tmp_path_factory.mktemp("input")
    write_jsonl(folder / "opinions" / "opinions.jsonl", opinions(60))
    questions = write_jsonl(folder / "questions.jsonl", rows(400))
    given = ["--model", str(model_folder), "--data", str(data_folder)]
    train = [*given, "--epochs", "2", "--save-every", "1", "--output", "out"]
    pretrain = ["--text", str(folder / "opinions"), "--params", "5m", "--vocab", "400", "--row-length", "64"]
    pretrain += ["--batch-size", "64", "--epochs", "1", "--save-every", "1", "--precision", "fp32", "--output", "out"]
    sweep = [*given, "--loss", "sdpo", "sft", "--num-neg", "1", "--seed", "0", "--epochs", "1", "--output", "out"]
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


@pytest.fixture(scope="module")
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
    return [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())


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


# ---- kill -9 ----


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments(programs, undisturbed, tmp_path, name):
    """What goes on, or starts again, ends as what nobody disturbed; what has no resume is there whole or not at all."""
    program, expected = programs[name], undisturbed(name)
    output, moments, finished = tmp_path / program.output, random.Random(name), 0
    for _ in range(KILLS):
        child = program.start(tmp_path)
        time.sleep(moments.uniform(0, expected.seconds))
        finished += child.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if program.output.endswith(".jsonl") and output.exists():
            assert result(output) == expected.result
            output.unlink()
        elif name == "mine" and output.exists():
            assert result(output) == expected.result
            shutil.rmtree(output)
    done = program.run(tmp_path)
    assert done.returncode == 0 or "finished" in last_line(done), done.stderr
    assert result(output) == expected.result
    left = [path.name for path in tmp_path.rglob("*.incomplete*")]
    print(f"{name}: {KILLS} kills, {finished} of them after its end; left behind: {len(left)}")


# ---- a disk that fills up ----


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], tuple[Path, dict, Callable[[], None]]]]:
    """So many bytes to a folder on a file system of that size (where root may mount one), or to one in which no file
    may grow past them; with it what the program must be started with, and a function that makes room."""
    mounted = []

    def make(num_bytes: int):
        folder = tmp_path / f"disk{len(mounted)}-{num_bytes}"
        folder.mkdir()
        size = f"size={max(num_bytes, 4096)}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
        if done.returncode == 0:
            mounted.append(folder)
            more = ["mount", "-o", "remount,size=1g", folder]
            return folder, {}, lambda: subprocess.run(more, check=True)

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

        return folder, {"preexec_fn": limit}, lambda: None

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_ends_in_one_line_and_loses_nothing(programs, undisturbed, small_disk, name):
    program, expected = programs[name], undisturbed(name)
    for part in FILLS:
        folder, options, make_room = small_disk(int(part * expected.num_bytes))
        said = last_line(program.run(folder, **options))
        make_room()
        done = program.run(folder)
        assert done.returncode == 0, (said, done.stderr)
        assert result(folder / program.output) == expected.result


# ---- damaged files ----


def damages(folder: Path) -> Iterator[str]:
    """Every file of `folder`, once cut in half and once with one bit flipped; it is whole again afterwards."""
    for path in files_of(folder):
        whole = path.read_bytes()
        if not whole or path.suffix in (".png", ".md", ".log", ".lock"):
            continue
        place = random.Random(path.name).randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.Random(path.name).randrange(8)
        for kind, damaged in (("cut in half", whole[: len(whole) // 2]), (f"bit flipped at {place}", bytes(flipped))):
            path.write_bytes(damaged)
            yield f"{path.relative_to(folder)}, {kind}"
            path.write_bytes(whole)


def answer(main: Callable[[list[str]], int], flags: list, output: Path) -> bytes | None:
    """The bytes of `output`, or None where the program said in one line why there are none."""
    output.unlink(missing_ok=True)
    try:
        assert main([*map(str, flags)]) == 0
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        assert not output.exists()
        return None
    return output.read_bytes()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, programs) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    done = programs["train"].run(folder)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_a_damaged_run_gives_no_wrong_answer(run_folder, data_folder, tmp_path):
    flags = ["--model", run_folder, "--data", data_folder, "--score", "reward", "--output", tmp_path / "out.jsonl"]
    right = answer(eval_mc.main, flags, tmp_path / "out.jsonl")
    refused = 0
    for damage in damages(run_folder):
        found = answer(eval_mc.main, flags, tmp_path / "out.jsonl")
        assert found in (None, right), damage
        refused += found is None
    assert refused > 5
    assert answer(eval_mc.main, flags, tmp_path / "out.jsonl") == right


def test_a_damaged_export_gives_no_wrong_answer(onnx_model, data_folder, tmp_path, scorer):
    folder = shutil.copytree(onnx_model.parent, tmp_path / "export")
    model, output = folder / onnx_model.name, tmp_path / "out.jsonl"
    flags = ["--model", model, "--data", data_folder, "--output", output]
    right = answer(eval_mc.main, flags, output)
    command = [SCORE, "--model", model, "--check", "--input", data_folder / "test.jsonl"]
    whole = subprocess.run(command, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    for damage in damages(folder):
        assert answer(eval_mc.main, flags, output) in (None, right), damage
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0 and done.stdout == whole.stdout) or last_line(done), damage


def test_a_damaged_cache_is_computed_again(model_folder, data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    flags = ["--model", model_folder, "--data", data_folder, "--epochs", 1, "--output", "out"]
    adapter = Path("out/adapter_model.safetensors")

    def train() -> bytes:
        shutil.rmtree("out", ignore_errors=True)
        assert train_sdpo.main([*map(str, flags)]) == 0
        return adapter.read_bytes()

    right = train()
    damaged = 0
    for damage in damages(tmp_path / "cache"):
        assert train() == right, damage
        damaged += 1
    assert damaged == 2


@pytest.mark.parametrize("kind", ["cut in half", "bit flipped"])
def test_a_damaged_checkpoint_is_named_or_passed_over(programs, undisturbed, tmp_path, kind):
    program, expected = programs["train"], undisturbed("train")
    child = program.start(tmp_path)
    while not list(tmp_path.glob("out/checkpoints/step-*")) and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    begun = shutil.copytree(tmp_path / "out", tmp_path / "begun")
    checkpoints = [path.relative_to(begun) for path in files_of(begun / "checkpoints")]
    assert checkpoints
    for damage in damages(begun / "checkpoints"):
        if kind not in damage:
            continue
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(begun, tmp_path / "out")
        done = program.run(tmp_path)
        if done.returncode == 0:
            assert result(tmp_path / "out") == expected.result, damage
        else:
            assert "checkpoint" in last_line(done), damage


# ---- two at once ----


def two_at_once(program: Program, folder: Path) -> list[subprocess.CompletedProcess]:
    children = [program.start(folder) for _ in range(2)]
    return [ended(child) for child in children]


@pytest.mark.parametrize("name", NAMES)
def test_two_at_once_on_one_output(programs, undisturbed, tmp_path, name):
    """Both end as one alone, or the later one says in one line that the place is taken."""
    program, expected = programs[name], undisturbed(name)
    done = two_at_once(program, tmp_path)
    won = [one for one in done if one.returncode == 0]
    assert won, done[0].stderr + done[1].stderr
    for one in done:
        if one.returncode:
            last_line(one)
    assert result(tmp_path / program.output) == expected.result


def test_two_runs_at_once_share_a_cache_and_latest(programs, undisturbed, tmp_path):
    program = programs["train"]
    command = program.command[: program.command.index("--output")]
    done = two_at_once(Program("train", command, "runs"), tmp_path)
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    runs = {path.name for path in (tmp_path / "runs").iterdir() if not path.is_symlink()}
    assert len(runs) == 2 and (tmp_path / "runs" / "latest").resolve().name in runs
    weights = undisturbed("train").result["adapter_model.safetensors"]
    assert all((tmp_path / "runs" / run / "adapter_model.safetensors").read_bytes() == weights for run in runs)
