"""SHA256SUMS is what coreutils reads, and finds what was changed."""

import subprocess

import pytest

from lib.checksums import check_sums, write_sums
from lib.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("weights.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    write_sums(tmp_path)
    return tmp_path


def test_coreutils_agrees(folder):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    check_sums(folder)
    told = subprocess.run(["sha256sum", "--binary", "tokenizer.json"], cwd=folder, check=True, capture_output=True)
    (folder / "SHA256SUMS").write_bytes(told.stdout)
    check_sums(folder)


def test_a_folder_without_sums_is_not_judged(folder):
    (folder / "SHA256SUMS").unlink()
    check_sums(folder)


DAMAGES = [(name, damage) for name in ("weights.safetensors", "SHA256SUMS") for damage in ("flipped", "cut")]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGES, ("tokenizer.json", "missing")])
def test_damage_is_named(folder, name, damage):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data if damage == "flipped" else data[:30])
    if damage == "missing":
        path.unlink()
    with pytest.raises(InputError, match="not as it was written"):
        check_sums(folder)
