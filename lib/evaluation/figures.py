"""Figures of an evaluation report, each a PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.evaluation.metrics import (
    ECE_BINS,
    TARGET_ACCURACY,
    Group,
    coverage_curve,
    log_probabilities,
    margins,
    wilson_interval,
)
from lib.evaluation.scores import is_correct

DPI = 110


def draw_evaluation(folder: Path, records: Sequence[dict], groups: dict[str, list[Group]]) -> dict[str, str]:
    """Write the figures into the existing `folder`; returns a caption for each file's name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = {
        "coverage.png": ("How often it is right when it may decline the questions of smallest margin", _coverage),
        "calibration.png": ("How often it is right by the probability of its choice", _calibration),
        "margins.png": ("Margins of right and wrong choices", _margins),
        "groups.png": ("Accuracy by what the questions are like, with 95 % intervals", _groups),
    }
    for name, (_, draw) in drawn.items():
        figure = draw(plt, records, groups)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=DPI, format="png")
        plt.close(figure)
    return {name: caption for name, (caption, _) in drawn.items()}


def _coverage(plt, records, groups):
    figure, axis = plt.subplots(figsize=(6, 4))
    curve = coverage_curve(margins(records), is_correct(records))
    x = [point.share for point in curve]
    low, high = wilson_interval(*np.array([(point.correct, point.answered) for point in curve]).T)
    axis.fill_between(x, low, high, alpha=0.2, label="95 % interval")
    axis.plot(x, [point.accuracy for point in curve], label="accuracy")
    axis.axhline(TARGET_ACCURACY, linestyle=":", color="C2", label=f"{TARGET_ACCURACY:.0%}")
    axis.set(xlabel="share of questions answered", ylabel="accuracy on them", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(loc="best")
    axis.grid(alpha=0.3)
    return figure


def _calibration(plt, records, groups):
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 5), sharex=True, height_ratios=(3, 1))
    confidence = np.exp(log_probabilities(records)).max(axis=1)
    correct = is_correct(records)
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    counts = np.bincount(bins, minlength=ECE_BINS)
    filled = counts > 0
    means = np.bincount(bins, weights=confidence, minlength=ECE_BINS)[filled] / counts[filled]
    shares = np.bincount(bins, weights=correct, minlength=ECE_BINS)[filled] / counts[filled]
    top.plot([0, 1], [0, 1], linestyle=":", color="gray", label="calibrated")
    top.plot(means, shares, "o-", label="accuracy")
    top.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    top.legend(loc="upper left")
    bottom.bar(edges[:-1], counts, width=1 / ECE_BINS, align="edge", edgecolor="white")
    bottom.set(xlabel="probability of the choice", ylabel="questions")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    return figure


def _margins(plt, records, groups):
    figure, axis = plt.subplots(figsize=(6, 3.5))
    values, correct = margins(records), is_correct(records)
    edges = np.histogram_bin_edges(values, 30)
    axis.hist([values[correct], values[~correct]], edges, stacked=True, label=["right", "wrong"], color=["C0", "C1"])
    axis.set(xlabel=f"margin ({records[0]['score']})", ylabel="questions")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def _groups(plt, records, groups: dict[str, list[Group]]):
    figure, axes = plt.subplots(len(groups), 1, figsize=(6, 2.2 * len(groups)))
    for axis, (trait, members) in zip(axes, groups.items(), strict=True):
        shares = np.array([group.correct / group.total for group in members])
        limits = np.array([wilson_interval(group.correct, group.total) for group in members])
        errors = np.abs(limits.T - shares)
        axis.bar(range(len(members)), shares, yerr=errors, capsize=4, color="C0", alpha=0.8)
        axis.set_xticks(range(len(members)), [f"{group.name}\n{group.total} questions" for group in members])
        axis.set(title=trait, ylim=(0, 1))
        axis.grid(alpha=0.3, axis="y")
    return figure
