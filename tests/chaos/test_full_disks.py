"""Programs whose disk fills up: one line says so, and with room again they end as what had room all the time."""

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import NAMES, last_line, result

pytest_plugins = ["disturbed"]
pytestmark = pytest.mark.slow

FILLS = (0.1, 0.5, 0.9)  # of the bytes that a program leaves, as room for them


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
