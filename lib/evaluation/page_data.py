"""What the browser of questions in report.html holds: every question or, of many, as many as the page has room for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from transformers import PreTrainedTokenizerBase

from lib.evaluation.metrics import log_probabilities, margins
from lib.evaluation.scores import Scored, is_correct, score_values
from lib.questions.data import MASK
from lib.questions.prompt import ending_text

MAX_BYTES = 40_000_000  # of a page's questions; what else it holds is below 1 MB
WRONG_FOR_A_RIGHT_ONE = 3  # answers that are shown while there are both


@dataclass(frozen=True)
class PageData:
    """content: JSON for a script element. shown: in words, how many of the questions are in it."""

    content: Markup
    shown: str


def page_data(scored: Scored, records: Sequence[dict], tokenizer: PreTrainedTokenizerBase) -> PageData:
    """The questions as the page's browser reads them, in the order of the data. Where `MAX_BYTES` do not hold all, they
    are drawn from a fixed seed, three wrong answers for a right one while there are both.

    `endings[e]` lists the pieces of a distinct ending, one a token, null for the end token; a question names its
    endings by place. Numbers are rounded: they are read, not computed with.
    """
    correct = is_correct(records)
    probabilities, gaps = np.exp(log_probabilities(records)), margins(records)
    places: dict[tuple[str, int], int] = {}
    endings: list[Markup] = []
    questions: dict[int, Markup] = {}
    num_bytes = 0
    for index in _lots(correct):
        item, record = scored.encoded[index], records[index]
        # By its count of tokens too: what does not fit is cut off.
        own = [(ending, len(ids)) for ending, ids in zip(item.question.endings, item.ending_ids, strict=True)]
        new = [_json(pieces(tokenizer, *ending)) for ending in dict.fromkeys(own) if ending not in places]
        for ending in own:
            places.setdefault(ending, len(places))
        question = {
            "id": item.question.id,
            "fields": list(item.question.fields.items()),
            "label": record["label"],
            "prediction": record["prediction"],
            "truncated": record["truncated"],
            "endingsTruncated": sum(item.endings_truncated),
            "margin": round(float(gaps[index]), 4),
            "endings": [places[ending] for ending in own],
            "logprobs": [round(value, 4) for value in record["logprobs"]],
            "values": [round(value, 4) for value in score_values(record)],
            "probabilities": [round(float(value), 5) for value in probabilities[index, : len(record["logprobs"])]],
            "tokens": [[round(value, 3) for value in ending] for ending in scored.token_logprobs[index]],
        }
        text = _json(question)
        num_bytes += len(text) + sum(map(len, new))
        if num_bytes > MAX_BYTES:
            break
        questions[index] = text
        endings += new
    members = {
        "score": _json(records[0]["score"]),
        "mask": _json(MASK),
        "classes": _json(len({item.question.endings for item in scored.encoded}) == 1),
        "endings": _list(endings),
        "questions": _list(questions[index] for index in sorted(questions)),
    }
    content = Markup("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}")
    return PageData(content, _shown(correct, list(questions)))


def _lots(correct: np.ndarray) -> list[int]:
    """All questions, in the order in which they are given room."""
    lots = np.random.default_rng(0).permutation(len(correct))
    right = correct[lots]
    turns = np.where(right, np.cumsum(right) * WRONG_FOR_A_RIGHT_ONE, np.cumsum(~right))
    return lots[np.argsort(turns, kind="stable")].tolist()


def _json(value) -> Markup:
    return htmlsafe_json_dumps(value, separators=(",", ":"))


def _list(texts: Iterable[Markup]) -> str:
    return "[" + ",".join(texts) + "]"


def _shown(correct: np.ndarray, there: list[int]) -> str:
    if len(there) == len(correct):
        return f"all {len(correct)} questions"
    counts = []
    for kind, all_of_kind in (("wrong", ~correct), ("right", correct)):
        shown, total = int(all_of_kind[there].sum()), int(all_of_kind.sum())
        counts.append(f"all {total} {kind} ones" if shown == total else f"{shown} of the {total} {kind} ones")
    return f"{len(there)} of {len(correct)} questions: {' and '.join(counts)}, drawn by lot"


def pieces(tokenizer: PreTrainedTokenizerBase, ending: str, count: int) -> list[str | None]:
    """The ending's text cut into `count` pieces, one a token, which put together give the text back, or of an ending
    that was cut its beginning; a token that ends within a character adds nothing. The end token, where there is one, is
    None."""
    text = ending_text(ending)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = [end for _, end in offsets]
    if ends:
        ends[-1] = len(text)
    starts = [0, *ends[:-1]]
    found: list[str | None] = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return (found + [None] * (count - len(found)))[:count]
