"""Programs that are killed at random moments: nothing is lost that was computed, nothing half-written counts.

CHAOS_KILLS=100 raises the number of kills of each program; what was done is printed with `pytest -s`.
"""

import contextlib
import os
import random
import shutil
import signal
import time

import pytest
from programs import NAMES, last_line, result

from lib.paths import INCOMPLETE

pytest_plugins = ["disturbed"]
pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHAOS_KILLS", 8))  # of each program
# What comes last of those that do not go on: once it stands, all does.
LAST = {"evaluate": "out.jsonl", "export": "out/model.onnx", "mine": "out", "score": "out.jsonl"}
TIDY = ("train", "pretrain", "sweep")  # go on in their own folder, and remove what a kill left there


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments(programs, undisturbed, tmp_path, name):
    """What goes on, or starts again, ends as what nobody disturbed; what has no resume is there whole or not at all."""
    program, expected = programs[name], undisturbed(name)
    output, moments, finished = tmp_path / program.output, random.Random(name), 0
    for _ in range(KILLS):
        child = program.start(tmp_path)
        time.sleep(moments.uniform(0, expected.seconds))
        over = child.poll() is not None
        finished += over
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        # What is whole is made again from the beginning: the next kill shall hit work.
        if over or (name in LAST and (tmp_path / LAST[name]).exists()):
            assert result(output) == expected.result
            shutil.rmtree(output) if output.is_dir() else output.unlink()
    done = program.run(tmp_path)
    assert done.returncode == 0 or "finished" in last_line(done), done.stderr
    assert result(output) == expected.result
    left = list(tmp_path.rglob(f"*{INCOMPLETE}"))
    assert not left or name not in TIDY
    print(f"{name}: {KILLS} kills, {finished} of them after its end; left behind: {len(left)}")
