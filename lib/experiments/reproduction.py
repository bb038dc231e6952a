"""The report of `tools/reproduce.py`: what was made, the tables, and what the shipped model is worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.evaluation.compare import Comparison, compare, compare_correct, read_aligned
from lib.evaluation.metrics import bootstrap_interval, margins, percent_interval, wilson_interval
from lib.evaluation.predictions import by_score, predictions_file
from lib.evaluation.scores import is_correct
from lib.experiments.report import accuracy_cell, points_cell, table
from lib.experiments.variations import COMPARED_SCORES, RECIPE, Outcome
from lib.models.runs import library_versions, read_run
from lib.questions.baselines import free_correct
from lib.questions.data import load_split
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
        f"Runs of {_count(folder / 'questions')} questions each, by `--score {grid['settings']['score']}` on "
        "validation; in brackets 95 % Wilson intervals of the mean for so many questions. Loss of each epoch, figures, "
        "and what the models write: [grid/report.md](grid/report.md). With one right ending `dpo` is `sdpo` with one "
        "negative, and `dpo-best` is `dpo-pairs`.",
        _grid(grid),
        _more_negatives(folder / "grid", grid),
        "## What may raise accuracy, on validation alone",
        f"`real-questions` has {_count(folder / 'real'):,} questions, "
        f"`mined-questions` {_count(folder / 'with-mined'):,}. "
        f"The best by {chosen.score} is chosen here, and tested once; differences are by it, in points, paired.",
        _variations(found, chosen),
        "## The chosen run, shipped",
        _shipped(shipped, chosen),
        _beside_free(folder, shipped),
    ]
    return "\n\n".join(sections) + "\n"


def _count(folder: Path) -> int:
    return sum(1 for _ in read_rows(folder / "train.jsonl"))


def _model(folder: Path, grid: dict) -> str:
    counts = f"Validation questions: {grid['questions']['validation']}, those set aside of the training split included."
    if not (folder / "model").exists():
        return f"The model: `{grid['settings']['model']}`, pretrained. {counts}"
    record = read_run(folder / "model" / "pretraining")
    result, settings = record["result"], record["settings"]
    return (
        f"The model: {settings['params']} weights, {record['num_steps']:,} steps of "
        f"{settings['batch_size'] * settings['row_length']:,} tokens, held-out perplexity "
        f"{result['held_out_perplexity']:.1f} ({result['bits_per_byte']:.3f} bits a byte), "
        f"{result['tokens_per_second']:,.0f} tokens/s. {counts}"
    )


def _free(grid: dict) -> str:
    rows = [
        [name, *(f"{grid['baselines'][split][name]:.1%}" for split in grid["questions"])]
        for name in grid["baselines"]["validation"]
    ]
    by = "sum" if grid["settings"]["score"] == "reward" else grid["settings"]["score"]
    rows.append([f"untuned, {by}", *(f"{grid['untuned'][split]['accuracy']:.1%}" for split in grid["questions"])])
    return table(["", *grid["questions"]], rows)


def _grid(grid: dict) -> str:
    rows = []
    for variant in sorted(grid["variants"], key=lambda one: (list(LOSSES).index(one["loss"]), one["num_neg"])):
        shown = variant["validation"]
        each = ", ".join(f"{value:.1%}" for value in shown["accuracies"])
        rows.append(
            [variant["loss"], str(variant["num_neg"]), accuracy_cell(shown), each, points_cell(shown["deviation"])]
        )
    return table(["loss", "negatives", "accuracy", "seeds", "sd"], rows)


def _more_negatives(folder: Path, grid: dict) -> str:
    """Marsh's claim in two sentences: S-DPO with the most negatives against one, the mean over seeds of each question's
    correctness, paired."""
    score, most = grid["settings"]["score"], max(run["num_neg"] for run in grid["runs"])

    def right(num_negatives: int) -> np.ndarray:
        names = [run["name"] for run in grid["runs"] if (run["loss"], run["num_neg"]) == ("sdpo", num_negatives)]
        paths = (by_score(folder / "runs" / name / predictions_file("validation"), score) for name in names)
        return np.mean([is_correct([record for _, record in read_rows(path)]) for path in paths], axis=0)

    one, several = right(1), right(most)
    low, high = bootstrap_interval(several - one)
    verdict = "holds here" if low > 0 else "is contradicted here" if high < 0 else "is neither shown nor refuted here"
    return (
        f"S-DPO with {most} negatives is right on {several.mean():.1%} and with one on {one.mean():.1%}, a difference "
        f"of {(several - one).mean() * 100:+.1f} points {percent_interval((low, high), signed=True)} over {len(one)} "
        f"questions (resampled; how seeds differ is not in it). Marsh's claim, that more negatives help, {verdict}."
    )


def _variations(found: Sequence[Outcome], chosen: Outcome) -> str:
    recipe, rows = next(outcome for outcome in found if outcome.name == RECIPE), []
    for outcome in found:
        values = [f"{outcome.accuracies[name]:.1%}" if name in outcome.accuracies else "" for name in COMPARED_SCORES]
        name = f"**{outcome.name}**" if outcome is chosen else outcome.name
        difference = ""
        if outcome is not recipe:
            against = compare(recipe.chosen, outcome.chosen)
            difference = f"{against.difference * 100:+.1f} {percent_interval(against.interval, signed=True)}"
        rows.append([name, f"`{outcome.flags}`" if outcome.flags else "", *values, difference])
    return table(["", "flags", *COMPARED_SCORES, f"against {recipe.name}"], rows)


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


def _beside_free(folder: Path, shipped: Sequence[Shipped]) -> str:
    """The tuned model against each chooser that reads no model, on the test questions."""
    _, tuned = (read_aligned([one.predictions])[0][0] for one in shipped[:2])
    questions = {question.id: question for question in load_split(str(folder / "questions"), "test").questions}
    asked = [questions[record["id"]] for record in tuned]
    own, rows = is_correct(tuned), []
    for name, free in free_correct(asked).items():
        found = compare_correct(free, own)
        rows.append([name, f"{free.mean():.1%}", str(found.only_b), str(found.only_a), f"{found.p_value:.2g}"])
    return table(["without a model", "test", "only the tuned is right", "only this", "exact McNemar p"], rows)


def _against(found: Comparison, chosen: Outcome) -> str:
    return (
        f"`{chosen.name}` by `{chosen.score}` against untuned: {found.difference * 100:+.1f} points "
        f"{percent_interval(found.interval, signed=True)}, {found.only_b} questions right that were wrong, "
        f"{found.only_a} wrong that were right, exact McNemar p = {found.p_value:.2g}."
    )
