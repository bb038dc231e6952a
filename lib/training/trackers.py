"""A run in an experiment tracker (--report-to): what must be installed for it, how its record begins, and what is
logged. All of it goes through accelerate."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from lib.errors import InputError, first_line
from lib.models.runs import read_metrics

PROJECT = "casehold-sdpo"  # what the runs are filed under, unless WANDB_PROJECT says otherwise
# What to install for each; a newer trackio needs another huggingface-hub than transformers 4 does.
TRACKERS = {"tensorboard": "tensorboard==2.21.0", "wandb": "wandb==0.28.2", "trackio": "trackio==0.20.2"}


def pick_tracker(report_to: str) -> str | None:
    """The tracker for accelerate to log with, None for "none". Raises InputError, with what installs it, where its
    library is missing: accelerate would only warn, and log nothing."""
    if report_to not in TRACKERS:
        return None
    if report_to not in map(str, get_available_trackers()):
        install = f"install it with `pip install {TRACKERS[report_to]}`"
        raise InputError(f"--report-to {report_to}: {report_to} is not installed; {install}")
    return report_to


def start_tracker(accelerator: Accelerator, name: str | None, settings: Mapping, folder: Path) -> None:
    """Begin the run's record in the tracker `name`, which `accelerator` logs with. Its files lie in the run's `folder`,
    its configuration is the run's `settings`.

    A resumed run is told anew from `metrics.jsonl`: a tracker that was killed with it may hold steps that are computed
    again, and lack others that it had not written yet. Raises InputError where the tracker does not begin.
    """
    if not name or not accelerator.is_main_process:
        return
    for earlier in (folder / "tensorboard", folder / "trackio", *folder.glob("wandb/offline-run-*")):
        shutil.rmtree(earlier, ignore_errors=True)
    os.environ["TRACKIO_DIR"] = str(folder.resolve() / "trackio")  # read when trackio is imported
    project = {
        "tensorboard": "tensorboard",  # its folder in that of the run
        "wandb": os.environ.get("WANDB_PROJECT", PROJECT),
        "trackio": PROJECT,
    }
    begin = {
        # RUN/wandb keeps the id of a run that did not end well.
        "wandb": {"dir": str(folder), "name": folder.name, "resume": "auto"},
        "trackio": {"name": folder.name},
    }
    try:
        accelerator.init_trackers(project[name], config=settings, init_kwargs=begin)
    except Exception as error:  # where nobody is logged in, or no server answers; the libraries share no base of errors
        advice = f"then go on with --resume --output {folder}"
        raise InputError(f"--report-to {name}: it does not begin ({first_line(error)}); mend that, {advice}") from None
    # What wandb's server has of a run stays there.
    known = accelerator.get_tracker("wandb", unwrap=True).starting_step if name == "wandb" else 0
    for line in read_metrics(folder):
        if line["step"] >= known:
            log_line(accelerator, line)


def log_line(accelerator: Accelerator, line: Mapping) -> None:
    """Tell the tracker, if there is one, a line of `metrics.jsonl`."""
    accelerator.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])
