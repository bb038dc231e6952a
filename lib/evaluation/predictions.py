"""Prediction files, the same from eval_mc.py and the C++ scorer: one JSON line a question.

Each line names its prompt contract by a digest, rather than a header or a file beside it: lines stay what they are in a
pipe, after `head`, or put together, and a reader that knows no such field passes over it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.errors import InputError
from lib.evaluation.scores import SCORES, Scored, choose, score_values
from lib.paths import atomic_file
from lib.questions.fields import fail
from lib.questions.readers import read_rows

LOGPROB_FIELDS = ("logprobs", "neutral_logprobs", "reference_logprobs")
COUNT_FIELDS = ("tokens", "bytes")
MAX_FLOAT = sys.float_info.max  # JSON may hold integers beyond it


def write_predictions(path: Path, records: Sequence[dict]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def predictions_file(split: str) -> str:
    """What the predictions on a split are called in the folder of the run that they are of."""
    return f"predictions.{split}.jsonl"


def by_score(path: Path, score: str) -> Path:
    """Where the predictions of one score are, of those that `path` names: NAME.SCORE.jsonl for NAME.jsonl."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.{score}.jsonl")


def write_every_score(path: Path, scored: Scored) -> list[Path]:
    """A file for each score that can be computed; the paths."""
    written = []
    for score in scored.scores:
        write_predictions(by_score(path, score), scored.predictions(score))
        written.append(by_score(path, score))
    return written


def read_predictions(path: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """The records of a prediction file by question id, and the errors of those that were not scored, likewise.

    Raises InputError with file, line and field for what is not in the format: a label is needed, counts are 1 or
    more, log-probs are finite, and the prediction is what the record's own numbers choose.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; write one with --output, or with ./cpp_scorer/score")
    records, errors = {}, {}
    for line, row in read_rows(path):
        where = f"{path}:{line}"
        question_id = row.get("id")
        if not isinstance(question_id, str):
            fail(where, "id", f"{question_id!r:.60} is not a string")
        if question_id in records or question_id in errors:
            fail(where, "id", f"{question_id!r:.60} stands in an earlier line")
        if "error" in row:
            errors[question_id] = str(row["error"])
        else:
            _check(where, row)
            records[question_id] = row
    if not records:
        raise InputError(f"{path}: there are no predictions in it")
    return records, errors


def _check(where: str, row: dict) -> None:
    for field in ("prediction", "label", "score", "logprobs", *COUNT_FIELDS, "truncated"):
        if field not in row:
            advice = "; accuracy needs labelled questions" if field == "label" else ""
            fail(where, field, f"is missing{advice}")
    count = len(row["logprobs"]) if isinstance(row["logprobs"], list) else 0
    if count < 2:
        fail(where, "logprobs", "is not a list of 2 or more numbers")
    for field in LOGPROB_FIELDS:
        if field in row:
            _check_list(where, row, field, count, _is_finite, "finite numbers")
    for field in COUNT_FIELDS:
        _check_list(where, row, field, count, lambda value: _is_integer(value) and value >= 1, "integers from 1")
    for field in ("prediction", "label"):
        if not _is_integer(row[field]) or not 0 <= row[field] < count:
            fail(where, field, f"{row[field]!r:.60} names none of the {count} candidates (0 to {count - 1})")
    if not _is_integer(row["truncated"]) or row["truncated"] < 0:
        fail(where, "truncated", f"{row['truncated']!r:.60} is not a count of tokens")
    if "endings_truncated" in row:
        _check_list(where, row, "endings_truncated", count, lambda value: _is_integer(value) and value >= 0, "counts")
    if not isinstance(row.get("contract", ""), str):
        fail(where, "contract", f"{row['contract']!r:.60} is not a string")
    if row["score"] not in SCORES:
        fail(where, "score", f"{row['score']!r:.60} is none of {', '.join(SCORES)}")
    lacking = {"pmi": "neutral_logprobs", "reward": "reference_logprobs"}.get(row["score"])
    if lacking and lacking not in row:
        fail(where, lacking, f"is missing; a choice by {row['score']} needs it")
    chosen = choose(score_values(row))
    if chosen != row["prediction"]:
        fail(where, "prediction", f"{row['prediction']}, but by {row['score']} its log-probs choose {chosen}")


def _check_list(where: str, row: dict, field: str, count: int, fits, what: str) -> None:
    values = row[field]
    if not isinstance(values, list) or len(values) != count or not all(map(fits, values)):
        fail(where, field, f"{values!r:.60} is not a list of {count} {what}, one a candidate")


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value) -> bool:
    # NaN compares false with everything.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_FLOAT
