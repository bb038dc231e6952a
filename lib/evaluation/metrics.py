"""What predictions are worth: accuracy with intervals, F1, calibration, and how often the model is right when it may
decline. Records are in the shared prediction format; probabilities are the softmax over a question's score values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import log_softmax
from scipy.stats import bootstrap
from sklearn.metrics import brier_score_loss, f1_score

from lib.evaluation.scores import is_correct, score_values
from lib.packed.inference import margin

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
RESAMPLES = 5_000  # of the bootstrap: its limits then move by a few hundredths of the interval's width
RESAMPLED_AT_ONCE = 4_000_000  # numbers: 32 MB
ECE_BINS = 15
TARGET_ACCURACY = 0.9  # of the margin below which the model should decline


def wilson_interval(correct, total):
    """95 % score interval (low, high) of a share (Wilson 1927): of two numbers, or of two arrays of them."""
    share, spread = correct / total, Z**2 / total
    centre, half = share + spread / 2, np.sqrt(spread * (share * (1 - share) + spread / 4))
    return np.maximum((centre - half) / (1 + spread), 0), np.minimum((centre + half) / (1 + spread), 1)


def percent_interval(limits: tuple[float, float], *, signed: bool = False) -> str:
    """Limits of a share for reading, in percent; with `signed` those of a difference."""
    low, high = (f"{limit * 100:+.2f}" if signed else f"{limit:.2%}" for limit in limits)
    return f"[{low}, {high}]"


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N], questions drawn with replacement (Efron 1979), from a
    fixed seed. A single value is its own interval."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values[0]), float(values[0])
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, RESAMPLED_AT_ONCE // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def log_probabilities(records: Sequence[dict]) -> np.ndarray:
    """Natural logarithms [N, K] of the softmax over each question's score values; -inf where a question has fewer
    candidates than K."""
    width = max(len(record["logprobs"]) for record in records)
    values = np.full((len(records), width), -np.inf)
    for row, record in zip(values, records, strict=True):
        row[: len(record["logprobs"])] = score_values(record)
    return log_softmax(values, axis=1)


def margins(records: Sequence[dict]) -> np.ndarray:
    """Best score value minus the second best [N], in the score's unit."""
    return np.array([margin(score_values(record)) for record in records])


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: the mean over questions of |accuracy - confidence| of their bin, in `ECE_BINS`
    bins of equal width (Guo et al. 2017). confidence: probability of the choice [N]; correct: booleans [N]."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct.astype(float) - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(correct))


@dataclass(frozen=True)
class Metrics:
    """Of one set of predictions. Intervals are of 95 %; nll in nats; brier from 0 to 2, all candidates summed.
    `right_margin` is None where no margin reaches `TARGET_ACCURACY`."""

    total: int
    correct: int
    wilson: tuple[float, float]
    bootstrap: tuple[float, float]
    macro_f1: float
    micro_f1: float
    nll: float
    brier: float
    ece: float
    right_margin: "Coverage | None"

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


def compute_metrics(records: Sequence[dict]) -> Metrics:
    """All metrics of labelled predictions. F1 is over the candidates' places, as LexGLUE reports it."""
    correct = is_correct(records)
    labels = np.array([record["label"] for record in records])
    chosen = np.array([record["prediction"] for record in records])
    log_probs = log_probabilities(records)
    probabilities = np.exp(log_probs)
    rows = np.arange(len(records))
    return Metrics(
        total=len(records),
        correct=int(correct.sum()),
        wilson=wilson_interval(int(correct.sum()), len(records)),
        bootstrap=bootstrap_interval(correct),
        macro_f1=float(f1_score(labels, chosen, average="macro", zero_division=0)),
        micro_f1=float(f1_score(labels, chosen, average="micro", zero_division=0)),
        nll=float(-log_probs[rows, labels].mean()),
        brier=float(brier_score_loss(labels, probabilities, labels=range(log_probs.shape[1]), scale_by_half=False)),
        ece=calibration_error(probabilities[rows, chosen], correct),
        right_margin=decline_below(margins(records), correct, TARGET_ACCURACY),
    )


@dataclass(frozen=True)
class Coverage:
    """The questions answered when those below `margin` are declined: how many, and how many of them right."""

    margin: float
    answered: int
    correct: int
    total: int

    @property
    def share(self) -> float:
        return self.answered / self.total

    @property
    def accuracy(self) -> float:
        return self.correct / self.answered


def coverage_curve(margins: np.ndarray, correct: np.ndarray) -> list[Coverage]:
    """A point for every distinct margin, from the largest (few questions answered) to the smallest (all): the
    risk-coverage curve of selective classification (El-Yaniv and Wiener 2010)."""
    order = np.argsort(-margins, kind="stable")
    right = np.cumsum(correct[order])
    sorted_margins = margins[order]
    # Questions of equal margin are answered together or not at all.
    last = np.flatnonzero(np.append(sorted_margins[1:] != sorted_margins[:-1], True))
    return [Coverage(float(sorted_margins[i]), int(i) + 1, int(right[i]), len(order)) for i in last]


def decline_below(margins: np.ndarray, correct: np.ndarray, accuracy: float) -> Coverage | None:
    """The point of the curve that answers most questions among those at least this accurate, or None."""
    reached = [point for point in coverage_curve(margins, correct) if point.accuracy >= accuracy]
    return reached[-1] if reached else None


@dataclass(frozen=True)
class Group:
    """Questions that share a trait: its name, how many, and how many right."""

    name: str
    total: int
    correct: int


def by_quartile(values: Sequence[float], correct: np.ndarray) -> list[Group]:
    """Accuracy in four groups of about equal size by a number of each question; fewer where values repeat."""
    values = np.asarray(values)
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    group = np.searchsorted(edges, values, side="left")
    found = [values[group == index] for index in range(len(edges) + 1)]
    names = [_range(part) if len(part) else "" for part in found]
    return [group for group in _groups([names[index] for index in group], correct, names) if group.total]


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def by_name(names: Sequence[str], correct: np.ndarray) -> list[Group]:
    """Accuracy of each group of questions of one name, in the order of the names."""
    return _groups(names, correct, sorted(set(names)))


def _groups(names: Sequence, correct: np.ndarray, order: Sequence) -> list[Group]:
    total, right = Counter(names), Counter(name for name, ok in zip(names, correct, strict=True) if ok)
    return [Group(str(name), total[name], right[name]) for name in order]


def histogram(records: Sequence[dict]) -> list[tuple[int, int, int]]:
    """(candidate index, labels there, predictions there) for every index that occurs in either."""
    labels = Counter(record["label"] for record in records)
    chosen = Counter(record["prediction"] for record in records)
    return [(index, labels[index], chosen[index]) for index in sorted({*labels, *chosen})]
