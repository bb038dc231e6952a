"""From log-probs to choices: predictions, accuracy with its interval, and baselines that cost nothing."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from scipy.stats import binomtest

from lib.data import STRIP, Question
from lib.prompt import EncodedQuestion, num_bytes

SCORES = ("sum", "mean", "bytes")


def predictions(encoded: Sequence[EncodedQuestion], logprobs: Sequence[Sequence[float]], score: str) -> list[dict]:
    """One record a question in the shared prediction format. `logprobs` are sums over tokens; `score` is one of
    "sum", "mean" (a token) and "bytes" (a UTF-8 byte) and makes the choice."""
    records = []
    for item, values in zip(encoded, logprobs, strict=True):
        tokens = [len(ids) for ids in item.ending_ids]
        sizes = [num_bytes(ending) for ending in item.question.endings]
        records.append(
            {
                "id": item.question.id,
                "prediction": choose(values, {"sum": [1] * len(values), "mean": tokens, "bytes": sizes}[score]),
                "label": item.question.label,
                "score": score,
                "logprobs": list(values),
                "tokens": tokens,
                "bytes": sizes,
                "truncated": item.truncated,
            }
        )
    return records


def choose(logprobs: Sequence[float], lengths: Sequence[int]) -> int:
    """Index of the largest log-prob a unit of length; the first wins a tie."""
    scores = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


def num_correct(records: Sequence[dict]) -> int:
    return sum(record["prediction"] == record["label"] for record in records)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high


def baselines(questions: Sequence[Question]) -> dict[str, float]:
    """Accuracy of chance and of three choosers that read no model: the longest ending, the shortest, and the one with
    the largest share of its words in the prompt's text. Lengths are in characters; the first wins a tie."""
    choosers = {
        "longest": lambda question, ending: len(ending),
        "shortest": lambda question, ending: -len(ending),
        "word overlap": lambda question, ending: _overlap(ending, prompt_words(question)),
    }
    scored = {"chance": math.fsum(1 / len(question.endings) for question in questions) / len(questions)}
    for name, key in choosers.items():
        hits = 0
        for question in questions:
            values = [key(question, ending.strip(STRIP)) for ending in question.endings]
            hits += values.index(max(values)) == question.label
        scored[name] = hits / len(questions)
    return scored


def prompt_words(question: Question) -> frozenset[str]:
    """The distinct words of the question's text fields, without case."""
    return frozenset(word for text in question.fields.values() for word in words(text))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _overlap(ending: str, known: frozenset[str]) -> float:
    found = words(ending)
    return sum(word in known for word in found) / len(found) if found else 0.0


def histogram(records: Sequence[dict]) -> list[tuple[int, int, int]]:
    """(candidate index, labels there, predictions there) for every index that occurs in either."""
    labels = Counter(record["label"] for record in records)
    chosen = Counter(record["prediction"] for record in records)
    return [(index, labels[index], chosen[index]) for index in range(max([*labels, *chosen]) + 1)]
