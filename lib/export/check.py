"""Whether an exported graph still is the model: log-probs before and after, and golden questions that hold them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.errors import InputError
from lib.packed.inference import Logprobs, share_equal
from lib.packed.pack import PackedBatch, pack
from lib.progress import progress
from lib.questions.data import STRIP
from lib.questions.forms import FORMS
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import PromptConfig

# Of a log-prob, a sum over tokens: absolute, and per unit of its size, where fp32 rounds.
ABSOLUTE, RELATIVE = 2e-3, 1e-5
GOLDEN_QUESTIONS = 5  # that the graph is held against PyTorch on, and that are kept beside it


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


def cut_question(first: EncodedQuestion, tokenizer, prompt: PromptConfig) -> list[EncodedQuestion]:
    """Where the contract bounds endings, a golden question with an ending that is cut: `first`, its last ending
    repeated."""
    if prompt.max_ending is None:
        return []
    question = first.question
    *others, last = question.endings
    repeated = " ".join([last.strip(STRIP) or "holding"] * (prompt.max_ending + 1))
    long = replace(question, id=f"{question.id} with an ending that is cut", endings=(*others, repeated))
    return encode_questions([long], tokenizer, prompt)


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
