"""The report of `tools/reproduce.py`: what was made, the tables, and what the shipped model is worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.evaluation.compare import Comparison, compare, read_aligned
from lib.evaluation.metrics import margins, percent_interval, wilson_interval
from lib.evaluation.scores import is_correct
from lib.experiments.report import accuracy_cell, points_cell, table
from lib.experiments.variations import COMPARED_SCORES, Outcome
from lib.models.runs import library_versions, read_run
from lib.questions.readers import read_rows
from lib.training.losses import LOSSES


@dataclass(frozen=True)
class Shipped:
    """A way of scoring the test questions, and its predictions."""

    title: str
    predictions: Path


def reproduction_report(
    folder: Path,
    size: str,
    seconds: Mapping[str, float],
    found: Sequence[Outcome],
    chosen: Outcome,
    shipped: Sequence[Shipped],
) -> str:
    """The report as text; the full tables of the grid are in `grid/report.md` beside it."""
    grid = json.loads((folder / "grid" / "report.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    spent = ", ".join(f"{stage} {value / 60:.1f}" for stage, value in seconds.items())
    sections = [
        f"# CaseHOLD from text alone, size `{size}`",
        f"Minutes: {spent}; {sum(seconds.values()) / 60:.0f} in all. {versions}.",
        _model(folder, grid),
        "## Without training on questions",
        _free(grid),
        "## Negatives and losses",
        f"Runs of {_count(folder / 'questions')} questions each, by `--score {grid['settings']['score']}`; in brackets "
        "95 % Wilson intervals of the mean for so many questions.",
        _grid(grid),
        "## What may raise accuracy, on validation alone",
        f"`all-questions` has {_count(folder / 'all'):,} questions. The best is chosen here, and tested once.",
        _variations(found, chosen),
        "## The chosen run, shipped",
        _shipped(shipped, chosen),
    ]
    return "\n\n".join(sections) + "\n"


def _count(folder: Path) -> int:
    return sum(1 for _ in read_rows(folder / "train.jsonl"))


def _model(folder: Path, grid: dict) -> str:
    tested = f"Test questions: {grid['questions']['test']}."
    if not (folder / "model").exists():
        return f"The model: `{grid['settings']['model']}`, pretrained. {tested}"
    record = read_run(folder / "model" / "pretraining")
    result, settings = record["result"], record["settings"]
    return (
        f"The model: {settings['params']} weights, {record['num_steps']:,} steps of "
        f"{settings['batch_size'] * settings['row_length']:,} tokens, held-out perplexity "
        f"{result['held_out_perplexity']:.1f} ({result['bits_per_byte']:.3f} bits a byte), "
        f"{result['tokens_per_second']:,.0f} tokens/s. {tested}"
    )


def _free(grid: dict) -> str:
    rows = [
        [name, *(f"{grid['baselines'][split][name]:.1%}" for split in grid["questions"])]
        for name in grid["baselines"]["test"]
    ]
    by = "sum" if grid["settings"]["score"] == "reward" else grid["settings"]["score"]
    rows.append([f"untuned, {by}", *(f"{grid['untuned'][split]['accuracy']:.1%}" for split in grid["questions"])])
    return table(["", *grid["questions"]], rows)


def _grid(grid: dict) -> str:
    rows = []
    for variant in sorted(grid["variants"], key=lambda one: (list(LOSSES).index(one["loss"]), one["num_neg"])):
        test = variant["test"]
        each = ", ".join(f"{value:.1%}" for value in test["accuracies"])
        rows.append(
            [
                variant["loss"],
                str(variant["num_neg"]),
                f"{variant['validation']['accuracy']:.1%}",
                accuracy_cell(test),
                each,
                points_cell(test["deviation"]),
            ]
        )
    return table(["loss", "negatives", "validation", "test", "seeds", "sd"], rows)


def _variations(found: Sequence[Outcome], chosen: Outcome) -> str:
    rows = []
    for outcome in found:
        values = [f"{outcome.accuracies[name]:.1%}" if name in outcome.accuracies else "" for name in COMPARED_SCORES]
        name = f"**{outcome.name}**" if outcome is chosen else outcome.name
        rows.append([name, f"`{outcome.flags}`" if outcome.flags else "", *values])
    return table(["", "flags", *COMPARED_SCORES], rows)


def _shipped(shipped: Sequence[Shipped], chosen: Outcome) -> str:
    records, _ = read_aligned([one.predictions for one in shipped])
    untuned, tuned = records[0], records[1]
    exact = np.concatenate([record["logprobs"] for record in tuned])
    rows = []
    for one, own in zip(shipped, records, strict=True):
        correct, total = int(is_correct(own).sum()), len(own)
        values = [
            one.title,
            own[0]["score"],
            f"{correct / total:.1%} {percent_interval(wilson_interval(correct, total))}",
        ]
        if own is untuned or own is tuned:
            rows.append([*values, "", "", ""])
            continue
        change = np.abs(np.concatenate([record["logprobs"] for record in own]) - exact)
        flipped = [a["prediction"] != b["prediction"] for a, b in zip(tuned, own, strict=True)]
        widest = max(margins(tuned)[flipped], default=0.0)
        rows.append(
            [*values, f"{change.max():.2g}", f"{change.mean():.2g}", f"{sum(flipped)} (margins to {widest:.2g})"]
        )
    header = ["", "score", "test", "largest change of a log-prob", "mean", "choices that differ"]
    return f"{table(header, rows)}\n\n{_against(compare(untuned, tuned), chosen)}"


def _against(found: Comparison, chosen: Outcome) -> str:
    return (
        f"`{chosen.name}` by `{chosen.score}` against untuned: {found.difference * 100:+.1f} points "
        f"{percent_interval(found.interval, signed=True)}, {found.only_b} questions right that were wrong, "
        f"{found.only_a} wrong that were right, exact McNemar p = {found.p_value:.2g}."
    )
