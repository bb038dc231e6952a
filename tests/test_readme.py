"""What the README says holds: every flag exists, and every command runs."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, opinions, write_jsonl

from lib.questions.data import load_split

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = ("train_sdpo.py", "eval_mc.py", "export.py", *sorted((ROOT / "tools").glob("*.py")))
OTHERS_FLAGS = {"--nproc_per_node"}  # torchrun's
# These need a model hub. Without one they end within seconds, with one line that says what to do instead.
NEED_A_HUB = {
    "python train_sdpo.py --num-neg 4",
    "python eval_mc.py --split test",
    "torchrun --nproc_per_node 2 train_sdpo.py --num-neg 4",
}
RUN_THIS = {"make test", "make test-all"}  # this very suite
# test_sweep.py runs a smaller grid, which takes 11 minutes whole; test_reproduce.py all stages, and test_benchmarks.py
# all benchmarks, which take two hours each.
TESTED_ELSEWHERE = {"make sweep-demo", "make reproduce", "make bench"}


def commands() -> list[str]:
    """The command lines of the README's sh blocks, without their comments; the three commands last, since they use
    what the others make."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted((line for line in lines if line), key=lambda line: line.startswith("./"))


@pytest.fixture(scope="session")
def flags(scorer) -> set[str]:
    commands = [*([sys.executable, script] for script in SCRIPTS), [scorer]]

    def help_of(command) -> str:
        return subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(2) as pool:
        helps = list(pool.map(help_of, commands))
    return {flag for text in helps for flag in re.findall(r"--[a-z][a-z_-]+", text)}


def test_every_flag_exists(flags):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", README)) - OTHERS_FLAGS
    assert named
    assert named <= flags


def test_every_file_of_the_layout_exists():
    layout = README.split("## Layout")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", layout, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)]
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_every_command_runs(tmp_path):
    # A clone, so that what the commands write replaces nothing; what they would fetch or make first is shared.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for folder in (".venv", ".cache", ".deps"):
        if (ROOT / folder).exists():
            (clone / folder).symlink_to(ROOT / folder)
    questions = load_split("demo", "test", limit=3)
    stdin = "".join(Path(questions.source).read_text(encoding="utf-8").splitlines(keepends=True)[:3])
    (clone / "questions.jsonl").write_text(stdin, encoding="utf-8")
    write_jsonl(clone / "opinions" / "opinions.jsonl", opinions(30))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for command in commands():
        if command in RUN_THIS | TESTED_ELSEWHERE:
            continue
        result = subprocess.run(
            command, shell=True, cwd=clone, env=environment, input=stdin, capture_output=True, text=True, timeout=900
        )
        if command in NEED_A_HUB:
            assert result.returncode == 1, command
            assert result.stderr.strip().splitlines()[-1].startswith("error: "), result.stderr
        else:
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        if command == "./cpp_scorer/score --model model.onnx":
            assert len(result.stdout.splitlines()) == 3
