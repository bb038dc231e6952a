"""Figures of a sweep, from the numbers that `results.collect` read and the steps of each run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.experiments.layout import UNTUNED
from lib.experiments.report import untuned_title
from lib.models.curve import running_mean
from lib.paths import atomic_file

DPI = 80
PANELS_A_ROW = 5


def draw_sweep(report: dict, metrics: Mapping[str, Sequence[dict]], folder: Path) -> list[str]:
    """Draw what the report's runs allow, and return the file names. `metrics`: the lines of each run by its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = {
        "negatives.png": _negatives(plt, report),
        "responses.png": _responses(plt, report),
        "curves.png": _curves(plt, report, metrics),
    }
    drawn = {name: figure for name, figure in figures.items() if figure}
    for name, figure in drawn.items():
        with atomic_file(folder / name) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png")
        plt.close(figure)
    return list(drawn)


def _series(report: dict, loss: str) -> dict[float, list[dict]]:
    """The variants of a loss over the number of negatives, by beta; only where there is more than one number."""
    series: dict[float, list[dict]] = {}
    for variant in sorted(report["variants"], key=lambda variant: variant["num_neg"]):
        if variant["loss"] == loss:
            series.setdefault(variant["beta"], []).append(variant)
    return {beta: variants for beta, variants in series.items() if len(variants) > 1}


def _negatives(plt, report: dict):
    """Loss of each epoch, and accuracy, over the number of negatives of S-DPO."""
    series = _series(report, "sdpo")
    if not series:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, (beta, variants) in enumerate(series.items()):
        x = [variant["num_neg"] for variant in variants]
        start = [variant["first_loss"] for variant in variants]
        left.plot(x, start, "x:", color="0.6", label=None if number else "step 0")
        for epoch in range(len(variants[0]["epoch_losses"])):
            losses = [variant["epoch_losses"][epoch] for variant in variants]
            left.plot(x, losses, "o-", color=f"C{epoch}", alpha=_shade(number), label=f"epoch {epoch + 1}, beta {beta}")
        _accuracy_line(right, x, variants, report["measured"], f"beta {beta}", f"C{number}")
    _untuned_line(right, report)
    left.set_ylabel("mean training loss")
    for axis in (left, right):
        axis.set_xlabel("negatives a question")
        axis.set_xticks(sorted({variant["num_neg"] for variants in series.values() for variant in variants}))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def _responses(plt, report: dict):
    """Accuracy over the number of responses, for SWEPO and whatever other loss was run with several."""
    by_loss = {loss: _series(report, loss) for loss in dict.fromkeys(one["loss"] for one in report["variants"])}
    if not by_loss.get("swepo"):
        return None
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    lines = [(loss, beta, variants) for loss, series in by_loss.items() for beta, variants in series.items()]
    for number, (loss, beta, variants) in enumerate(lines):
        x = [variant["num_neg"] + 1 + 0.04 * number for variant in variants]  # beside each other, not on each other
        _accuracy_line(axis, x, variants, report["measured"], f"{loss}, beta {beta}", f"C{number}")
    _untuned_line(axis, report)
    axis.set_xticks(sorted({one["num_neg"] + 1 for _, _, variants in lines for one in variants}))
    axis.set_xlabel("responses a question")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _accuracy_line(axis, x: Sequence[float], variants: Sequence[dict], split: str, label: str, color: str) -> None:
    """Means with their Wilson intervals, and a point for each seed."""
    shown = [variant[split] for variant in variants]
    mean = [one["accuracy"] for one in shown]
    bounds = [[abs(one["accuracy"] - one["interval"][side]) for one in shown] for side in (0, 1)]
    axis.errorbar(x, mean, yerr=bounds, fmt="o-", capsize=3, color=color, label=f"{label} (95 % interval)")
    for place, one in zip(x, shown, strict=True):
        axis.plot([place] * len(one["accuracies"]), one["accuracies"], "_", color=color, alpha=0.6)
    axis.set_ylabel(f"{split} accuracy")


def _untuned_line(axis, report: dict) -> None:
    split = report["measured"]
    accuracy, title = report[UNTUNED][split]["accuracy"], untuned_title(report)
    axis.axhline(accuracy, color="0.4", linestyle="--", linewidth=1, label=title)
    axis.axhline(report["baselines"][split]["chance"], color="0.7", linestyle=":", linewidth=1, label="chance")


def _shade(number: int) -> float:
    return 1 / (1 + number)


def _curves(plt, report: dict, metrics: Mapping[str, Sequence[dict]]):
    """A panel a variant: loss on the left axis, accuracy on training candidates on the right one."""
    groups: dict[tuple, list[str]] = {}
    for run in report["runs"]:
        groups.setdefault((run["loss"], run["num_neg"], run["beta"]), []).append(run["name"])
    columns = min(PANELS_A_ROW, len(groups))
    num_rows = math.ceil(len(groups) / columns)
    figure, axes = plt.subplots(
        num_rows, columns, figsize=(3.2 * columns, 2.4 * num_rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, ((loss, num_neg, beta), names) in zip(axes.flat, groups.items(), strict=False):
        right = axis.twinx()
        right.set_ylim(0, 1.02)
        right.tick_params(labelsize=7, colors="C1")
        axis.tick_params(labelsize=7, colors="C0")
        axis.set_title(f"{loss}, K = {num_neg}" + ("" if beta is None else f", beta {beta}"), fontsize=9)
        for name in names:
            steps = [line for line in metrics[name] if "loss" in line]
            window = max(1, len(steps) // 12)
            keys = {"loss": (axis, "C0"), "reward_accuracy": (right, "C1"), "logprob_accuracy": (right, "C1")}
            for key, (panel, color) in keys.items():
                if key in steps[0]:
                    values = running_mean([line[key] for line in steps], window)
                    panel.plot([line["step"] for line in steps], values, color=color, linewidth=1, alpha=0.7)
    figure.supxlabel("step", fontsize=9)
    title = "loss (left), reward or log-prob accuracy on the drawn candidates (right), running means; K negatives"
    figure.suptitle(title, fontsize=9)
    return figure
