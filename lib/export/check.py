"""Whether an exported graph still is the model: log-probs before and after, and golden questions that hold them."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.errors import InputError
from lib.packed.inference import Logprobs, margin, share_equal
from lib.packed.pack import PackedBatch, pack
from lib.progress import progress
from lib.questions.data import STRIP
from lib.questions.forms import FORMS
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import PromptConfig

# Of a log-prob, a sum over tokens: absolute, and per unit of its size, where fp32 rounds.
ABSOLUTE, RELATIVE = 2e-3, 1e-5
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


def quantization_report(fidelity: Fidelity, max_flips: float) -> list[str]:
    """The price of a quantised form, for people; raises InputError where more than the share `max_flips` of the choices
    changes, or a log-prob is not finite."""
    if not math.isfinite(fidelity.largest):
        raise InputError("quantised, some log-probs are no numbers; leave --quantize out")
    num_choices = sum(total for *_, total in fidelity.flips)
    if fidelity.num_flips > max_flips * num_choices:
        raise InputError(
            f"quantised, {fidelity.num_flips} of {num_choices} choices are others (log-probs change by "
            f"{fidelity.per_token:.2g} nats a token), more than --max-flips {max_flips:g} allows; try --quantize "
            "int8x2, more questions with --limit, or leave --quantize out"
        )
    return [
        f"  change of a log-prob: {fidelity.largest:.3g} at most, {fidelity.mean:.3g} on average, "
        f"{fidelity.per_token:.2g} a token",
        f"  choices that flip: {fidelity.num_flips} of {num_choices}, by their margin in fp32",
        *(f"    {low:g} to {high:g} nats: {flipped} of {total}" for low, high, flipped, total in fidelity.flips),
    ]


def golden_questions(encoded: Sequence[EncodedQuestion], tokenizer, prompt: PromptConfig) -> list[EncodedQuestion]:
    """The first questions and, where the contract bounds endings, one with an ending that is cut: the first question's,
    its last ending repeated."""
    golden = list(encoded[:GOLDEN_QUESTIONS])
    if prompt.max_ending is not None:
        first = golden[0].question
        *others, last = first.endings
        repeated = " ".join([last.strip(STRIP) or "holding"] * (prompt.max_ending + 1))
        long = replace(first, id=f"{first.id} with an ending that is cut", endings=(*others, repeated))
        golden += encode_questions([long], tokenizer, prompt)
    return golden


def write_golden(path: Path, encoded: Sequence[EncodedQuestion], logprobs: Logprobs, model_sha256: str) -> None:
    """The questions as JSON lines, in a form that Python and C++ read as data, with their ids, log-probs, the
    index of the highest, and the SHA-256 of the .onnx file, which itself names that of the weights."""
    with path.open("w", encoding="utf-8") as file:
        for item, values in zip(encoded, logprobs, strict=True):
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
