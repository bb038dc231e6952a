"""A sweep on a Ray cluster: the numbers of one machine's, whatever becomes of a node; an interrupt leaves all whole."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from lib.errors import InputError
from lib.models.runs import read_run

sys.path.insert(0, str(ROOT / "tools"))
import sweep as script  # noqa: E402

SWEEP = ROOT / "tools" / "sweep.py"
GRID = ("--loss", "sdpo", "sft", "--num-neg", "2", "--seed", "0", "--epochs", "2", "--batch-size", "4")


@pytest.fixture
def arguments(model_folder, data_folder, tmp_path, monkeypatch):
    """With paths from the folder that the command is given in."""
    monkeypatch.chdir(tmp_path)
    return [*GRID, "--model", os.path.relpath(model_folder), "--data", os.path.relpath(data_folder), "--jobs", "2"]


def numbers(folder: Path) -> dict:
    """What the report says of every run, without what a clock says."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {key: report[key] for key in ("questions", "baselines", "untuned", "variants")}


def unfinished(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob("runs/*/run.json") if not read_run(path.parent)["finished"]]


@pytest.mark.slow
def test_a_lost_nodes_runs_start_again_elsewhere(three_nodes, arguments, tmp_path):
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    assert script.main([*arguments, "--output", str(alone)]) == 0
    lost = three_nodes.lose_one_when(lambda: len(list(cluster.glob("runs/*/run.json"))) == 2)
    assert script.main([*arguments, "--output", str(cluster), "--ray", three_nodes.address]) == 0
    assert not lost.is_alive()
    assert numbers(cluster) == numbers(alone)
    assert not list(cluster.glob("logs/*.lock"))


@pytest.mark.slow
def test_an_interrupt_leaves_whole_what_is_whole_and_the_command_goes_on(arguments, tmp_path):
    arguments += ["--epochs", "40"]  # so that no run ends by itself meanwhile
    alone, folder = tmp_path / "alone", tmp_path / "ray"
    assert script.main([*arguments, "--output", str(alone)]) == 0
    command = [sys.executable, SWEEP, *arguments, "--output", folder, "--ray"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("runs/*/metrics.jsonl")):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait(120) == 130
    assert "the same command goes on" in child.stderr.read()
    begun = unfinished(folder)
    assert begun
    for run in begun:
        assert list(run.glob("checkpoints/*")), "the script had no time to save"
    subprocess.run(command, check=True)
    assert numbers(folder) == numbers(alone)


@pytest.mark.parametrize("flags", [["--gpus-per-run", "1"], ["--ray", "--gpus-per-run", "1.5"]])
def test_gpus_that_no_run_can_have_are_a_bad_flag(arguments, flags):
    with pytest.raises(SystemExit, match="2"):
        script.main([*arguments, *flags])


@pytest.mark.slow
def test_more_gpus_than_a_node_has_are_refused(arguments, tmp_path):
    with pytest.raises(InputError, match="--gpus-per-run 1: no node of the cluster has as many GPUs"):
        script.main([*arguments, "--output", str(tmp_path / "out"), "--ray", "--gpus-per-run", "1"])


def test_without_ray_one_line_says_what_to_install(monkeypatch, arguments, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; type `pip install ray==\S+`"):
        script.main([*arguments, "--output", str(tmp_path / "out"), "--ray"])
    assert not os.listdir(tmp_path)
