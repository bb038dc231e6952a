"""Worker processes: what ends them, and what is said of one that was ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from lib.errors import InputError
from lib.mining.workers import started

SCRIPT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from lib.errors import run_script
from lib.mining.workers import started

def pid(item):
    time.sleep(0.2)
    return os.getpid()

def main():
    with started(2, pid) as (submit, ahead):
        print(*{future.result() for future in [submit(n) for n in range(8)]}, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    run_script(main)
"""


@pytest.fixture
def script(tmp_path):
    """A process whose two workers are idle, and their process ids."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(ROOT)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    yield process, pids
    process.kill()
    process.communicate()


def ended(pids: list[int]) -> bool:
    for _ in range(100):
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if not any(state.exists() and state.read_text().split()[2] != "Z" for state in states):
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_ends_all_of_them_without_a_word(script):
    """A terminal sends it to each of them."""
    process, pids = script
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 128 + signal.SIGINT
    assert process.stderr.read() == "" and ended(pids)


def test_they_end_with_a_parent_that_was_killed(script):
    process, pids = script
    process.kill()
    assert ended(pids)


def test_a_worker_that_was_killed_is_one_clear_line():
    with (
        pytest.raises(InputError, match="a worker process was killed, .*; lower --workers"),
        started(2, os._exit) as (submit, _),
    ):
        submit(1).result()
