"""Two sets of predictions on the same questions: is one better, where, and on which questions do they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from lib.errors import InputError
from lib.evaluation.metrics import bootstrap_interval, by_name, by_quartile, margins, percent_interval, wilson_interval
from lib.evaluation.predictions import read_predictions
from lib.evaluation.scores import is_correct

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # what the files are called in the report
MAX_GROUPS = 12  # of a trait, listed on the screen; class names can be hundreds
MAX_DIFFERING = 10  # questions listed on the screen


def read_aligned(paths: Sequence[Path]) -> tuple[list[list[dict]], list[str]]:
    """The records of each file, question by question in the order of the first, and what was left out, in words.

    A question that some file could not score (a record with `error`) is left out of all. Raises InputError where the
    files do not hold the same questions: the same ids, labels, and lengths of endings in bytes.
    """
    read = [read_predictions(path) for path in paths]
    unscored = {name: path for path, (_, errors) in zip(paths, read, strict=True) for name in errors}
    first, (first_records, first_errors) = paths[0], read[0]
    asked = first_records.keys() | first_errors.keys()
    for path, (records, errors) in zip(paths[1:], read[1:], strict=True):
        if difference := asked ^ (records.keys() | errors.keys()):
            name = min(difference)
            holder = first if name in asked else path
            raise InputError(
                f"{first} and {path}: not over the same questions: {len(difference)} stand in one of them alone, "
                f"such as id {name!r:.60} of {holder.name}; compare predictions on the same split"
            )
        for name in first_records.keys() & records.keys():
            for field in ("label", "bytes"):
                one, other = first_records[name][field], records[name][field]
                if one != other:
                    raise InputError(
                        f"{first} and {path}: question {name!r:.60}: field '{field}': {one!r:.60} and {other!r:.60}; "
                        "these are not the same questions"
                    )
    kept = [name for name in first_records if name not in unscored]
    if not kept:
        raise InputError(f"{first}: no question was scored in every file")
    left_out = [f"left out: question {name}, which {path} could not score" for name, path in sorted(unscored.items())]
    return [[records[name] for name in kept] for records, _ in read], left_out


def contracts(paths: Sequence[Path], records: Sequence[Sequence[dict]]) -> list[str]:
    """What a reader must know of the prompt contracts that the files' lines name: nothing where all name the same."""
    named = [sorted({row.get("contract", "") for row in rows}) for rows in records]
    distinct = {digest for digests in named for digest in digests}
    if len(distinct) == 1:
        return []
    note = "note: not every file names its prompt contract, so that it may be another"
    if len(distinct - {""}) > 1:
        note = "warning: these answers stand under different prompt contracts: they differ by more than the model"
    shown = [", ".join(digest or "none named" for digest in digests) for digests in named]
    return [note, *(f"  {letter}  {own}  {path}" for letter, own, path in zip(LETTERS, shown, paths, strict=False))]


@dataclass(frozen=True)
class Comparison:
    """difference: accuracy of B less accuracy of A, with its paired 95 % bootstrap interval. p_value: exact McNemar."""

    only_a: int
    only_b: int
    difference: float
    interval: tuple[float, float]
    p_value: float


def compare(a: Sequence[dict], b: Sequence[dict]) -> Comparison:
    """Compare aligned records. The bootstrap draws questions, so that both are measured on the same ones."""
    return compare_correct(is_correct(a), is_correct(b))


def compare_correct(a: np.ndarray, b: np.ndarray) -> Comparison:
    """The same of bools [Q]: whether each is right."""
    paired = b.astype(int) - a.astype(int)
    only_a, only_b = int((paired < 0).sum()), int((paired > 0).sum())
    return Comparison(only_a, only_b, float(paired.mean()), bootstrap_interval(paired), mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of the exact McNemar test (1947): of the questions that one alone has right, is either's
    share different from a half? 1 where there are none."""
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def wins(a: Sequence[dict], b: Sequence[dict]) -> dict[str, list[tuple[str, int, int, int]]]:
    """Who wins where, from what the files themselves tell: for each trait its groups as (name, questions, only A
    right, only B right). The margin is A's."""
    right_a, right_b = is_correct(a), is_correct(b)
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    gold_bytes = [record["bytes"][record["label"]] for record in a]
    cut = ["cut" if one["truncated"] or other["truncated"] else "whole" for one, other in zip(a, b, strict=True)]
    rounded = np.round(margins(a), 2)
    grouped = {
        "bytes of the gold": (by_quartile, gold_bytes),
        "context": (by_name, cut),
        "label": (by_name, [record["label"] for record in a]),
        "margin of A": (by_quartile, rounded),
    }
    return {
        trait: [
            (one.name, one.total, one.correct, other.correct)
            for one, other in zip(group(values, only_a), group(values, only_b), strict=True)
        ]
        for trait, (group, values) in grouped.items()
    }


def differing(a: Sequence[dict], b: Sequence[dict]) -> list[dict]:
    """The questions on which the choices differ, those that one alone has right first, then by the margins."""
    differ = [
        {
            "id": one["id"],
            "label": one["label"],
            "a": one["prediction"],
            "b": other["prediction"],
            "margin_a": float(margin_a),
            "margin_b": float(margin_b),
        }
        for one, other, margin_a, margin_b in zip(a, b, margins(a), margins(b), strict=True)
        if one["prediction"] != other["prediction"]
    ]
    return sorted(
        differ, key=lambda row: (row["label"] not in (row["a"], row["b"]), -max(row["margin_a"], row["margin_b"]))
    )


def comparison_report(paths: Sequence[Path], records: Sequence[Sequence[dict]]) -> list[str]:
    """Every file against the first: difference, test, who wins where, and the questions on which they differ."""
    lines = [f"{len(records[0])} questions"]
    for letter, path, rows in zip(LETTERS, paths, records, strict=False):
        correct = is_correct(rows)
        low_high = percent_interval(wilson_interval(int(correct.sum()), len(correct)))
        lines.append(f"  {letter}  {correct.mean():.2%} {low_high}  {path} ({rows[0]['score']})")
    lines += contracts(paths, records)
    if len(paths) > 2:
        lines.append(f"{len(paths) - 1} comparisons with A; their p-values are not corrected for that number")
    for letter, other in zip(LETTERS[1:], records[1:], strict=False):
        lines += ["", *_pair(letter, records[0], other, compare(records[0], other))]
    return lines


def _pair(letter: str, a: Sequence[dict], b: Sequence[dict], found: Comparison) -> list[str]:
    differ = differing(a, b)
    lines = [
        f"{letter} - A: {found.difference * 100:+.2f} points {percent_interval(found.interval, signed=True)}, "
        f"exact McNemar p = {found.p_value:.3g}",
        f"  only A right {found.only_a}, only {letter} right {found.only_b}, choices differ on {len(differ)}",
    ]
    for trait, groups in wins(a, b).items():
        if len(groups) > MAX_GROUPS:
            continue
        lines.append(f"  {trait:<28} questions  only A  only {letter}")
        lines += [f"    {name:<26} {total:>9}  {one:>6}  {other:>6}" for name, total, one, other in groups]
    if differ:
        lines.append(f"  differ on{' ' * 21} label  A  {letter}  margins")
        for row in differ[:MAX_DIFFERING]:
            lines.append(
                f"    {row['id']:<28.28} {row['label']:>3} {row['a']:>3} {row['b']:>2}  "
                f"{row['margin_a']:.2f}, {row['margin_b']:.2f}"
            )
        if len(differ) > MAX_DIFFERING:
            lines.append(f"    ... and {len(differ) - MAX_DIFFERING} more; --output FILE writes them all")
    return lines
