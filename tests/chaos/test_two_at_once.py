"""Two processes at once on one output, one cache, one `runs/latest`."""

import subprocess
from pathlib import Path

import pytest
from programs import NAMES, Program, ended, last_line, result

pytest_plugins = ["disturbed"]
pytestmark = pytest.mark.slow


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
