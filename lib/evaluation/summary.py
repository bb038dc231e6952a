"""What eval_mc.py prints of its predictions, and where the rest of it is gathered for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from lib.evaluation.compare import Comparison, compare_correct
from lib.evaluation.metrics import (
    TARGET_ACCURACY,
    Group,
    Metrics,
    by_name,
    by_quartile,
    compute_metrics,
    histogram,
    percent_interval,
    wilson_interval,
)
from lib.evaluation.scores import Scored, is_correct
from lib.questions.baselines import chance, free_correct, gold_ranks
from lib.questions.data import Dataset

TRAINED_ON = "the model was trained on these very questions: its accuracy here says nothing of new ones"
MAX_PLACES = 12  # candidates listed on the screen, one a line; class names can be hundreds


@dataclass(frozen=True)
class Summary:
    """Of one set of predictions: its metrics, the baselines' accuracies, the differences to those that choose, and
    accuracy in groups by trait. warnings: why they may be worth less than they seem."""

    score: str
    metrics: Metrics
    baselines: dict[str, float]
    beside: dict[str, Comparison]
    groups: dict[str, list[Group]]
    histogram: list[tuple[int, int, int]]
    warnings: tuple[str, ...] = ()


def summarise(
    data: Dataset, scored: Scored, records: Sequence[dict], trained_on: frozenset[str] = frozenset()
) -> Summary:
    """`records` are `scored.predictions(...)` on the questions of `data`. trained_on: SHA-256 of the data that the
    model was trained on."""
    correct = is_correct(records)
    gold_tokens = [len(item.ending_ids[item.question.label]) for item in scored.encoded]
    ranks = gold_ranks(data.questions)
    # Past ten candidates a rank each would be groups of a few questions.
    by_rank = by_name if max(ranks) <= 10 else by_quartile
    groups = {
        "context, tokens before any cut": by_quartile(
            [len(item.prompt_ids) + item.truncated for item in scored.encoded], correct
        ),
        "gold, tokens": by_quartile(gold_tokens, correct),
        "rank of the gold by word overlap": by_rank(ranks, correct),
        "context, cut or whole": by_name(["cut" if item.truncated else "whole" for item in scored.encoded], correct),
    }
    warnings = (TRAINED_ON,) if data.sha256 in trained_on else ()
    free = free_correct(data.questions)
    known = {"chance": chance(data.questions)} | {name: float(right.mean()) for name, right in free.items()}
    beside = {name: compare_correct(right, correct) for name, right in free.items()}
    metrics = compute_metrics(records)
    return Summary(records[0]["score"], metrics, known, beside, groups, histogram(records), warnings)


def headline(summary: Summary) -> list[str]:
    """The lines for the screen: accuracy with its intervals, what it is worth beside the baselines, the choices."""
    metrics = summary.metrics
    right = metrics.right_margin
    lines = [
        *(f"warning: {text}" for text in summary.warnings),
        f"accuracy ({summary.score}): {metrics.accuracy:.2%} {percent_interval(metrics.wilson)} "
        f"{metrics.correct} of {metrics.total}",
        f"  bootstrap    {percent_interval(metrics.bootstrap)}",
        *(f"  {name:<13}{text}" for name, text in baseline_texts(summary).items()),
        f"  F1           macro {metrics.macro_f1:.1%}, micro {metrics.micro_f1:.1%}",
        f"  calibration  NLL {metrics.nll:.3f}, Brier {metrics.brier:.3f}, ECE {metrics.ece:.3f}",
        f"  {TARGET_ACCURACY:.0%} right    "
        + (
            f"on the {right.answered} questions ({right.share:.1%}) with a margin of {right.margin:.3g} or more, found "
            "on these very questions"
            if right
            else "at no margin"
        ),
    ]
    if len(summary.histogram) <= MAX_PLACES:
        lines += ["", "candidate   labels  predictions"]
        lines += [f"{index:>9}  {labels:>7}  {chosen:>11}" for index, labels, chosen in summary.histogram]
    return lines


def baseline_texts(summary: Summary) -> dict[str, str]:
    """Each baseline's accuracy, and how far the model is above it, paired."""
    texts = {name: f"{value:.1%}" for name, value in summary.baselines.items()}
    for name, found in summary.beside.items():
        texts[name] += (
            f"; the model {found.difference * 100:+.1f} points {percent_interval(found.interval, signed=True)}, "
            f"exact McNemar p = {found.p_value:.2g}"
        )
    return texts


def score_table(scored: Scored, validation: Scored | None) -> tuple[str, list[str]]:
    """The score that validation would choose ("sum" without one), and a line for every score that there is."""
    lines = ["score    accuracy" + " " * 18 + ("  validation" if validation else "")]
    chosen, best = "sum", -1.0
    for score in scored.scores:
        correct = is_correct(scored.predictions(score))
        low_high = percent_interval(wilson_interval(int(correct.sum()), len(correct)))
        line = f"{score:<7}{correct.mean():>8.2%} {low_high:<18}"
        if validation:
            on_validation = is_correct(validation.predictions(score)).mean()
            line += f"  {on_validation:>9.2%}"
            if on_validation > best:
                chosen, best = score, on_validation
        lines.append(line.rstrip())
    if validation:
        lines.append(f"validation ({len(validation.encoded)} questions) would choose: {chosen}")
    else:
        lines.append("no validation questions of their own to choose a score by; what follows is of the sum")
    return chosen, lines
