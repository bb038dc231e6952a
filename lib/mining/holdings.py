"""A holding and its passage: the mask that stands for it, and the form in which candidates are written."""

import re
from collections.abc import Iterable
from pathlib import Path

from lib.questions.data import MASK, Question, load_split
from lib.questions.template import MAIN_FIELDS

PUNCTUATION = re.compile(r"[^\w\s]|_")


def candidate_form(text: str) -> str:
    """`text` as CaseHOLD writes its candidates: lower case, punctuation deleted, one space between words."""
    return " ".join(PUNCTUATION.sub("", text.lower()).split())


def filled_passage(question: Question) -> str:
    """The question's passage with the right ending in the place of the mask; without a mask, the passage as it is."""
    passage = next(question.fields[name] for name in MAIN_FIELDS if name in question.fields)
    return passage.replace(MASK, question.endings[question.label].strip(), 1)


def filled_passages(sources: Iterable[Path]) -> list[str]:
    """The passages of the train split of each source (a folder or file), the right ending in the mask's place."""
    return [filled_passage(question) for source in sources for question in load_split(str(source), "train").questions]
