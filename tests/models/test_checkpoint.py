"""Checkpoints: safely on disk, and restored whole, from an older one, or not at all."""

import os
import resource
from pathlib import Path

import pytest
import torch
from accelerate.utils import RNG_STATE_NAME

from lib.checksums import write_sums
from lib.errors import InputError
from lib.models.checkpoint import Checkpoints
from lib.packed.inference import start_accelerator

RANDOM_STATES = f"{RNG_STATE_NAME}_0.pkl"


class Trained:
    """A layer in training, whose checkpoints go to `run`."""

    def __init__(self, run: Path, size: int = 3):
        accelerator = start_accelerator("fp32")
        self.layer = torch.nn.Linear(size, size)
        self.optimizer = accelerator.prepare(torch.optim.AdamW(self.layer.parameters()))
        self.checkpoints = Checkpoints(run, accelerator, self.layer)

    def step(self) -> None:
        self.layer(torch.nn.functional.dropout(torch.ones(1, len(self.layer.bias)))).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def weights(self) -> list[float]:
        return self.layer.weight.flatten().tolist()


@pytest.fixture
def saved(tmp_path) -> list[list[float]]:
    """Checkpoints after steps 1, 2 and 3; the weights after each, and after a fourth step."""
    trained, weights = Trained(tmp_path), []
    for number in range(1, 5):
        trained.step()
        weights.append(trained.weights)
        if number < 4:
            trained.checkpoints.save(number, note=number)
    return weights


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_last_two_are_kept_and_the_newest_is_restored_to_the_last_bit(saved, tmp_path):
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    again = Trained(tmp_path)
    assert again.checkpoints.load_newest() == {"step": 3, "note": 3}
    assert again.weights == saved[2]
    again.step()
    assert again.weights == saved[3]


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.bin", RANDOM_STATES, "state.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "gone"])
def test_a_broken_one_is_named_and_the_one_before_is_used(saved, tmp_path, capsys, file, damage):
    path = tmp_path / "checkpoints" / "step-00000003" / file
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\x00noise" * 9, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    again = Trained(tmp_path)
    assert again.checkpoints.load_newest() == {"step": 2, "note": 2}
    assert again.weights == saved[1]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {path.parent}: broken checkpoint (") and line.endswith("from the one before")
    for number, expected in ((3, saved[2]), (4, saved[3])):
        again.step()
        assert again.weights == expected
        again.checkpoints.save(number)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_where_all_are_broken_the_last_is_named(saved, tmp_path):
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "optimizer.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"step-00000002: broken checkpoint \(.*\); start the run again"):
        Trained(tmp_path).checkpoints.load_newest()
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"torch_cuda_manual_seed": [torch.zeros(16)] * 2}, "random states of 2 GPUs, and here are 0"),
        ({"torch_manual_seed": torch.zeros(3, dtype=torch.uint8)}, "its random states cannot be restored"),
    ],
)
def test_random_states_that_cannot_be_restored_end_the_run(saved, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "checkpoints" / "step-00000003" / RANDOM_STATES
    torch.save(torch.load(path, weights_only=False) | change, path)
    write_sums(path.parent)
    with pytest.raises(InputError, match=message):
        Trained(tmp_path).checkpoints.load_newest()
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("size", [100, 150])
def test_a_disk_that_is_full_costs_no_older_checkpoint(tmp_path, size):
    """No file may grow beyond so many bytes: too few for the weights of the larger layer, and for the optimizer of
    both."""
    trained = Trained(tmp_path, size)
    trained.step()
    trained.checkpoints.save(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"step-00000002: cannot be written \(.*\); make room, then --resume"):
            trained.checkpoints.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-00000001"]
    assert Trained(tmp_path, size).checkpoints.load_newest() == {"step": 1}


def test_every_file_is_on_disk_before_the_checkpoint_has_its_name(saved, tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    trained = Trained(tmp_path)
    trained.step()
    trained.checkpoints.save(9)
    folder = tmp_path / "checkpoints" / "step-00000009"
    for path in (folder, *folder.iterdir()):
        assert str(path).replace("step-00000009", "incomplete-9") in synced
    assert synced[-1] == str(folder.parent)
