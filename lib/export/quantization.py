"""The price of a quantised form, on real questions: how far log-probs move, which choices change, what is lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lib.errors import InputError
from lib.packed.inference import Logprobs, margin
from lib.questions.prompt import EncodedQuestion

MARGINS = (0.5, 2.0, 8.0)  # between the best candidate and the second best, in what they are chosen by


@dataclass(frozen=True)
class Choices:
    """Choices by one score. flips: for margins from `low` to below `high` in fp32 (nats; None: whatever is above), how
    many of how many choices change.
    right: answers that are right in fp32; of them `lost`, and `won` of the others, quantised."""

    flips: tuple[tuple[float, float | None, int, int], ...]
    right: int
    lost: int
    won: int

    @property
    def num_flips(self) -> int:
        return sum(flipped for *_, flipped, _ in self.flips)

    @property
    def num_choices(self) -> int:
        return sum(total for *_, total in self.flips)


@dataclass(frozen=True)
class Fidelity:
    """How a quantised graph changes log-probs, in nats: the largest and the mean of a candidate, the mean of a token;
    and the choices by each score."""

    largest: float
    mean: float
    per_token: float
    choices: dict[str, Choices]

    def as_dict(self) -> dict:
        return asdict(self)


def relative_to(logprobs: Logprobs, others: Logprobs) -> Logprobs:
    """The log-probs less others of the same candidates, in nats: less those after the neutral prompt it is the pmi
    (Holtzman et al. 2021), less the reference's the log-ratio."""
    return [[value - other for value, other in zip(*pair, strict=True)] for pair in zip(logprobs, others, strict=True)]


def compare_quantized(
    exact: Mapping[str, Logprobs], quantized: Mapping[str, Logprobs], encoded: Sequence[EncodedQuestion]
) -> Fidelity:
    """exact, quantized: what the candidates of every question are chosen by, by score; the log-probs are "sum"."""
    change = np.abs(np.concatenate(exact["sum"]) - np.concatenate(quantized["sum"]))
    per_token = change.sum() / sum(len(ids) for item in encoded for ids in item.ending_ids)
    labels = np.array([item.question.label for item in encoded])
    choices = {score: _compare_choices(exact[score], quantized[score], labels) for score in exact}
    return Fidelity(float(change.max()), float(change.mean()), float(per_token), choices)


def _compare_choices(exact: Logprobs, quantized: Logprobs, labels: np.ndarray) -> Choices:
    before, after = (np.array([np.argmax(values) for values in one]) for one in (exact, quantized))
    margins, flips, bins = np.array([margin(values) for values in exact]), before != after, []
    for low, high in zip((0.0, *MARGINS), (*MARGINS, math.inf), strict=True):
        inside = (low <= margins) & (margins < high)
        bins.append((low, None if high == math.inf else high, int(flips[inside].sum()), int(inside.sum())))
    was_right, is_right = before == labels, after == labels
    lost, won = int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum())
    return Choices(tuple(bins), int(was_right.sum()), lost, won)


def margins_between(low: float, high: float | None) -> str:
    return f"{low:g} nats and more" if high is None else f"{low:g} to {high:g} nats"


def check_flips(fidelity: Fidelity, max_flips: float) -> None:
    """Raises InputError where more than the share `max_flips` of the choices changes, by any score, or a log-prob is
    not finite."""
    if not math.isfinite(fidelity.largest):
        raise InputError("quantised, some log-probs are no numbers; leave --quantize out")
    for score, choices in fidelity.choices.items():
        if choices.num_flips > max_flips * choices.num_choices:
            raise InputError(
                f"quantised, {choices.num_flips} of {choices.num_choices} choices by {score} are others (log-probs "
                f"change by {fidelity.per_token:.2g} nats a token), more than --max-flips {max_flips:g} allows; try "
                "--quantize int8x2, more questions with --limit, or leave --quantize out"
            )


def quantization_report(fidelity: Fidelity) -> list[str]:
    """The price for people, as lines."""
    lines = [
        f"change of a log-prob: {fidelity.largest:.3g} at most, {fidelity.mean:.3g} on average, "
        f"{fidelity.per_token:.2g} a token"
    ]
    for score, choices in fidelity.choices.items():
        right = choices.right - choices.lost + choices.won
        bins = [f"{margins_between(low, high)}: {flipped} of {total}" for low, high, flipped, total in choices.flips]
        lines += [
            f"choices by {score} that flip: {choices.num_flips} of {choices.num_choices}; right {right}, in fp32 "
            f"{choices.right} ({choices.lost} lost, {choices.won} won)",
            f"by margin in fp32: {'; '.join(bins)}",
        ]
    return lines
