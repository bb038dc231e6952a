"""Damaged files: a run, an export, a cache or a checkpoint of which one was cut, or in which one bit flipped, gives one
clear line or the right answer, never a wrong one."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SCORE
from programs import files_of, last_line, result

import eval_mc
import train_sdpo
from lib.errors import InputError
from lib.packed import reference

pytest_plugins = ["disturbed"]
pytestmark = pytest.mark.slow


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
    summed = (run_folder / "SHA256SUMS").read_text(encoding="utf-8")
    for damage in damages(run_folder):
        found = answer(eval_mc.main, flags, tmp_path / "out.jsonl")
        assert found in (None, right), damage
        assert found is None or damage.split(",")[0] not in summed, damage
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
        found, done = answer(eval_mc.main, flags, output), subprocess.run(command, capture_output=True, text=True)
        if "golden" in damage:  # a digit of a log-prob may be another
            assert found in (None, right), damage
            assert (done.returncode == 0 and done.stdout == whole.stdout) or last_line(done), damage
        else:
            assert found is None and last_line(done), damage


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
    assert damaged == 4  # in two ways, of what the reference says of training and of validation questions


@pytest.mark.parametrize("kind", ["cut in half", "bit flipped"])
def test_a_damaged_checkpoint_is_named_or_passed_over(programs, undisturbed, tmp_path, kind):
    program, expected = programs["train"], undisturbed("train")
    child = program.start(tmp_path)
    while not list(tmp_path.glob("out/checkpoints/step-*")) and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    begun = shutil.copytree(tmp_path / "out", tmp_path / "begun")
    newest = max(path.name for path in begun.glob("checkpoints/step-*"))
    for damage in damages(begun / "checkpoints"):
        if kind not in damage:
            continue
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(begun, tmp_path / "out")
        done = program.run(tmp_path)
        if newest in damage:
            assert "broken checkpoint" in done.stdout + done.stderr, damage
        if done.returncode == 0:
            assert result(tmp_path / "out") == expected.result, damage
        else:
            assert "checkpoint" in last_line(done), damage
