"""The numbers of a sweep, read from its runs and predictions: one record a run, and one for the runs that differ by
their seed alone."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from lib.errors import InputError
from lib.evaluation.metrics import wilson_interval
from lib.evaluation.scores import is_correct
from lib.experiments.grid import Run
from lib.experiments.layout import UNTUNED
from lib.experiments.sweep import PATHS, Sweep
from lib.models.runs import read_metrics, read_run
from lib.questions.baselines import baselines
from lib.questions.data import Dataset, load_split
from lib.questions.readers import read_rows


def collect(sweep: Sweep, runs: Sequence[Run]) -> dict:
    """What `report.json` holds: settings, baselines, the untuned model, runs and variants; JSON types alone.
    "measured" names the split that tables and figures show, the last of the sweep's.

    Raises InputError where runs or predictions are not of the same model and the same questions.
    """
    settings, names = sweep.settings, sweep.settings.get("candidates")
    data = {
        split: load_split(settings["data"], split, limit=settings["limit"], candidates_file=names)
        for split in sweep.splits
    }
    records = {run.name: read_run(sweep.run_folder(run.name)) for run in runs}
    first = records[runs[0].name]
    for name, record in records.items():
        for key in ("base_sha256", "data_sha256", "prompt"):
            if record.get(key) != first.get(key):
                raise InputError(f"{sweep.folder}: runs {runs[0].name} and {name} differ in {key}; start a new sweep")
    results = [{**vars(run), "name": run.name, **_training(sweep.run_folder(run.name))} for run in runs]
    for result in results:
        result |= {split: _evaluation(sweep, result["name"], split, data[split]) for split in sweep.splits}
    typed = {name: value for name, value in settings.items() if name in PATHS}  # not where it lies on this machine
    shared = {name: first["settings"].get(name) for name in settings} | typed | {"score": sweep.score}
    return {
        "settings": shared | {"base_sha256": first["base_sha256"], "libraries": first["libraries"]},
        "measured": sweep.splits[-1],
        "questions": {split: len(data[split].questions) for split in sweep.splits},
        "baselines": {split: baselines(data[split].questions) for split in sweep.splits},
        UNTUNED: {split: _evaluation(sweep, UNTUNED, split, data[split]) for split in sweep.splits},
        "runs": results,
        "variants": [_over_seeds(list(group), sweep.splits) for group in _by_variant(results)],
    }


def _training(folder: Path) -> dict:
    """Loss at step 0 and the mean over the steps of each epoch."""
    steps = [line for line in read_metrics(folder) if "loss" in line]
    epochs = itertools.groupby(steps, key=lambda line: line["epoch"])
    return {
        "first_loss": steps[0]["loss"],
        "epoch_losses": [statistics.fmean(line["loss"] for line in lines) for _, lines in epochs],
    }


def _evaluation(sweep: Sweep, name: str, split: str, data: Dataset) -> dict:
    """Accuracy with its Wilson interval, and the gold's mean log-prob in nats, from the predictions of one model."""
    path = sweep.predictions(name, split)
    records = [record for _, record in read_rows(path)]
    if [record["id"] for record in records] != [question.id for question in data.questions]:
        raise InputError(f"{path}: not the questions of {data.source}; start a new sweep")
    correct, total = int(is_correct(records).sum()), len(records)
    return {
        "correct": correct,
        "total": total,
        "accuracy": correct / total,
        "interval": wilson_interval(correct, total),
        "gold_logprob": statistics.fmean(record["logprobs"][record["label"]] for record in records),
    }


def _by_variant(results: list[dict]) -> list[list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault((result["loss"], result["num_neg"], result["beta"]), []).append(result)
    return list(groups.values())


def _over_seeds(group: list[dict], splits: Sequence[str]) -> dict:
    """Means over the seeds and, from two seeds up, sample variance and standard deviation of the accuracy.

    The interval is that of the mean accuracy on as many questions as there are: more seeds answer the same questions,
    so they make it no narrower.
    """
    variant = {name: group[0][name] for name in ("loss", "num_neg", "beta")}
    variant |= {
        "seeds": [result["seed"] for result in group],
        "first_loss": statistics.fmean(result["first_loss"] for result in group),
        "epoch_losses": [
            statistics.fmean(losses) for losses in zip(*(result["epoch_losses"] for result in group), strict=True)
        ],
    }
    for split in splits:
        accuracies = [result[split]["accuracy"] for result in group]
        mean, total = statistics.fmean(accuracies), group[0][split]["total"]
        variance = statistics.variance(accuracies) if len(accuracies) > 1 else None
        variant[split] = {
            "accuracies": accuracies,
            "accuracy": mean,
            "interval": wilson_interval(round(mean * total), total),
            "variance": variance,
            "deviation": None if variance is None else variance**0.5,
            "gold_logprob": statistics.fmean(result[split]["gold_logprob"] for result in group),
        }
    return variant
