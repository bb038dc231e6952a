"""Whether an exported graph still is the model: log-probs before and after, and golden questions that hold them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.errors import InputError
from lib.packed.inference import Logprobs, margin, share_equal
from lib.packed.pack import PackedBatch, pack
from lib.progress import progress
from lib.questions.forms import FORMS
from lib.questions.prompt import EncodedQuestion

# Of a log-prob, a sum over tokens: absolute, and per unit of its size, where fp32 rounds.
ABSOLUTE, RELATIVE = 2e-3, 1e-5
INT8_TOKEN_CHANGE = 0.25  # nats a token, on average; past that the graph is another model
MARGINS = (0.5, 2.0, 8.0)  # nats between the best candidate and the second best
GOLDEN_QUESTIONS = 5


def compute_logprobs(
    score: Callable[[PackedBatch], np.ndarray], encoded: Sequence[EncodedQuestion], description: str
) -> Logprobs:
    """Log-probs by `score` (a packed batch to [B, K]), one question at a time."""
    bar = progress(encoded, desc=description, unit="question", leave=False)
    return [share_equal(score(pack([item]))[0].tolist(), item.ending_ids) for item in bar]


def largest_difference(what: str, one: Logprobs, other: Logprobs) -> float:
    """Largest difference of a log-prob; raises InputError where one exceeds the tolerance or is not finite."""
    mine, theirs = np.concatenate(one), np.concatenate(other)
    difference = np.abs(mine - theirs)
    if not (difference <= ABSOLUTE + RELATIVE * np.abs(theirs)).all():  # NaN fails too
        raise InputError(f"{what}: log-probs differ by {difference.max():.3g}, more than {ABSOLUTE:g}; not exported")
    return float(difference.max())


@dataclass(frozen=True)
class Fidelity:
    """How a quantised graph changes log-probs, in nats: the largest and the mean of a candidate, the mean of a token.
    flips: for margins from `low` to below `high` in fp32, how many of how many choices change."""

    largest: float
    mean: float
    per_token: float
    flips: tuple[tuple[float, float, int, int], ...]

    @property
    def num_flips(self) -> int:
        return sum(flipped for *_, flipped, _ in self.flips)


def compare_quantized(exact: Logprobs, quantized: Logprobs, encoded: Sequence[EncodedQuestion]) -> Fidelity:
    change = np.abs(np.concatenate(exact) - np.concatenate(quantized))
    margins = np.array([margin(values) for values in exact])
    flips = np.array([np.argmax(one) != np.argmax(other) for one, other in zip(exact, quantized, strict=True)])
    bins = []
    for low, high in zip((0.0, *MARGINS), (*MARGINS, np.inf), strict=True):
        inside = (low <= margins) & (margins < high)
        bins.append((low, high, int(flips[inside].sum()), int(inside.sum())))
    per_token = change.sum() / sum(len(ids) for item in encoded for ids in item.ending_ids)
    return Fidelity(float(change.max()), float(change.mean()), float(per_token), tuple(bins))


def int8_report(fidelity: Fidelity) -> list[str]:
    """The price of int8, for people; raises InputError where the average change a token exceeds `INT8_TOKEN_CHANGE`."""
    if not fidelity.per_token <= INT8_TOKEN_CHANGE:
        raise InputError(
            f"int8 changes log-probs by {fidelity.per_token:.3g} a token on average, more than {INT8_TOKEN_CHANGE:g}; "
            "this model does not bear it; export without --quantize int8"
        )
    return [
        f"  change of a log-prob: {fidelity.largest:.3g} at most, {fidelity.mean:.3g} on average, "
        f"{fidelity.per_token:.2g} a token",
        f"  choices that flip: {fidelity.num_flips} of {sum(total for *_, total in fidelity.flips)}, "
        "by their margin in fp32",
        *(f"    {low:g} to {high:g} nats: {flipped} of {total}" for low, high, flipped, total in fidelity.flips),
    ]


def write_golden(path: Path, encoded: Sequence[EncodedQuestion], logprobs: Logprobs, model_sha256: str) -> None:
    """The first questions as JSON lines, in a form that Python and C++ read as data, with their ids, log-probs, the
    index of the highest, and the SHA-256 of the .onnx file, which itself names that of the weights."""
    with path.open("w", encoding="utf-8") as file:
        for item, values in zip(encoded[:GOLDEN_QUESTIONS], logprobs, strict=False):
            question = item.question
            form = next(form for form in FORMS if form.prompt in question.fields)
            row = {
                "id": question.id,
                **question.fields,
                form.candidates: question.endings,
                form.reward: question.rewards if form.name == "graded" else question.label,
                "prompt_ids": item.prompt_ids,
                "ending_ids": item.ending_ids,
                "logprobs": values,
                "argmax": int(np.argmax(values)),
                "model_sha256": model_sha256,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
