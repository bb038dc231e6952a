"""--report-to: a tracker is told what metrics.jsonl holds, after an interruption too."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, run_main, run_python, write_jsonl

import train_sdpo
from lib.errors import InputError
from lib.models.runs import read_metrics, read_run
from lib.training import trackers
from lib.training.trackers import PROJECT, TRACKERS

KILLED_IN_STEP_3 = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import train_sdpo
step = train_sdpo.backward
def killed(scorer, batch, *others):
    if batch.step == 3:
        os._exit(137)
    return step(scorer, batch, *others)
train_sdpo.backward = killed
train_sdpo.main()
"""


def killed_and_resumed(folder: Path, model: Path, data: Path, tracker: str, **environment: str) -> Path:
    """A run of 13 questions in batches of 3, two epochs, killed in step 3 and resumed from the checkpoint before step
    2."""
    (folder / "killed.py").write_text(KILLED_IN_STEP_3)
    flags = ["--model", model, "--data", data, "--batch-size", 3, "--epochs", 2, "--save-every", 2]
    flags += ["--output", "runs/a", "--report-to", tracker]
    killed = run_python("killed.py", *flags, cwd=folder, check=False, **environment)
    assert killed.returncode == 137, killed.stderr
    run_python(ROOT / "train_sdpo.py", "--resume", cwd=folder, **environment)
    run = folder / "runs" / "a"
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(10))
    return run


def by_step(lines: list[dict]) -> dict[int, dict]:
    """Everything that was logged at each step, those of a step and of the validation after it together."""
    found: dict[int, dict] = {}
    for line in lines:
        found.setdefault(line["step"], {}).update({name: line[name] for name in line if name != "step"})
    return found


@pytest.mark.slow
def test_tensorboard_shows_what_metrics_jsonl_holds(tmp_path, model_folder, data_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = killed_and_resumed(tmp_path, model_folder, data_folder, "tensorboard")
    shown = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged: dict[str, list] = {}
    for line in read_metrics(run):
        for name, value in line.items():
            if name not in ("step", "validation_score"):
                logged.setdefault(name, []).append((line["step"], np.float32(value)))
    assert set(shown.Tags()["scalars"]) == set(logged)
    for name, expected in logged.items():
        assert [(event.step, event.value) for event in shown.Scalars(name)] == expected, name
    [settings] = run.glob("tensorboard/*/hparams.yml")
    assert yaml.safe_load(settings.read_text()) == read_run(run)["settings"]


@pytest.mark.slow
def test_wandb_gets_what_metrics_jsonl_holds(tmp_path, model_folder, data_folder):
    run = killed_and_resumed(tmp_path, model_folder, data_folder, "wandb", WANDB_MODE="offline")
    [offline] = run.glob("wandb/offline-run-*/run-*.wandb")  # what `wandb sync` sends
    found = offline_records(offline)
    assert found["name"] == "a" and found["config"] == read_run(run)["settings"]
    assert found["history"] == by_step(read_metrics(run))


def offline_records(path: Path) -> dict:
    """The name, the configuration, and what was logged at each step, of a run that wandb keeps until it is synced."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), {"config": {}, "history": {}}
    store.open_for_scan(str(path))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["name"] = record.run.display_name
        if kind in ("run", "config"):
            items = (record.run.config if kind == "run" else record.config).update
            found["config"] |= {item.key: json.loads(item.value_json) for item in items if item.key != "_wandb"}
        if kind == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            own = {name: value for name, value in values.items() if not name.startswith("_")}
            found["history"].setdefault(values["_step"], {}).update(own)
    return found


READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
project, run = sys.argv[1:]
print(json.dumps([SQLiteStorage.get_logs(project, run), SQLiteStorage.get_run_config(project, run)]))
"""


@pytest.mark.slow
def test_trackio_gets_what_metrics_jsonl_holds(tmp_path, model_folder, data_folder):
    run = killed_and_resumed(tmp_path, model_folder, data_folder, "trackio")
    printed = run_python("-c", READ_TRACKIO, PROJECT, "a", cwd=tmp_path, TRACKIO_DIR=str(run / "trackio")).stdout
    logged, config = json.loads(printed.splitlines()[-1])
    settings = read_run(run)["settings"]
    assert {name: config.get(name, "missing") for name in settings} == settings
    logged = [{name: value for name, value in row.items() if name != "timestamp"} for row in logged]
    assert logged == read_metrics(run)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_computed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    ended = run_main(train_sdpo.main, "--report-to", name, "--model", "nowhere", "--output", tmp_path / "run")
    assert ended.returncode == 1 and not (tmp_path / "run").exists()
    install = f"install it with `pip install {TRACKERS[name]}`"
    assert ended.stderr == f"error: --report-to {name}: {name} is not installed; {install}\n"


def test_what_a_user_is_told_to_install_is_what_is_tested():
    pinned = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").split()
    assert set(TRACKERS.values()) <= set(pinned)


def test_an_unknown_tracker_ends_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        train_sdpo.main(["--report-to", "all"])
    assert stop.value.code == 2 and "--report-to" in capsys.readouterr().err


class Told:
    """An accelerator that logs with a wandb whose server has the run's steps before `starting_step`."""

    is_main_process = True

    def __init__(self, starting_step: int):
        self.starting_step, self.steps = starting_step, []

    def init_trackers(self, project: str, config: dict, init_kwargs: dict) -> None:
        self.begun = init_kwargs["wandb"]

    def get_tracker(self, name: str, unwrap: bool) -> "Told":
        return self

    def log(self, values: dict, step: int) -> None:
        self.steps.append(step)


def test_wandb_is_not_told_again_what_its_server_has(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": step, "loss": 1.0} for step in range(5)])
    told = Told(starting_step=3)
    trackers.start_tracker(told, "wandb", {}, tmp_path)
    assert told.steps == [3, 4] and told.begun["resume"] == "auto"


class NobodyLoggedIn(Told):
    def init_trackers(self, project: str, config: dict, init_kwargs: dict) -> None:
        raise RuntimeError("no API key configured\nand much more")


def test_a_tracker_that_does_not_begin_is_one_line_and_the_run_can_go_on(tmp_path):
    message = r"--report-to wandb: it does not begin \(no API key configured\); mend that, then go on with --resume"
    with pytest.raises(InputError, match=message):
        trackers.start_tracker(NobodyLoggedIn(0), "wandb", {}, tmp_path)
