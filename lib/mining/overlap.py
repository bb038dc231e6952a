"""What a model is tested on must not stand in what it is trained on: texts are compared by 13-grams of words."""

import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from lib.errors import InputError
from lib.mining.holdings import filled_passage
from lib.questions.data import load_split

NGRAM_WORDS = 13
HELD_OUT_SPLITS = ("validation", "test")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def word_ngrams(text: str) -> Iterator[str]:
    """Every run of 13 consecutive words of `text`, in lower case; with punctuation as a gap between words, and again
    with it deleted, since that is how CaseHOLD's candidates were made ("plaintiff's" is "plaintiffs" there)."""
    text = text.lower()
    for words in (_NOT_ALPHANUMERIC.sub(" ", text).split(), _PUNCTUATION.sub("", text).split()):
        for start in range(len(words) - NGRAM_WORDS + 1):
            yield " ".join(words[start : start + NGRAM_WORDS])


def held_out_ngrams(sources: Iterable[Path]) -> Set[str]:
    """The word n-grams of the questions of `sources`: of a folder its validation and test splits, of a file all. A
    question counts with its right ending, alone and in the place of the mask."""
    ngrams: set[str] = set()
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; questions to exclude come from a folder or a file")
        for split in HELD_OUT_SPLITS if source.is_dir() else HELD_OUT_SPLITS[:1]:
            for question in load_split(str(source), split).questions:
                ngrams.update(word_ngrams(filled_passage(question)))
                ngrams.update(word_ngrams(question.endings[question.label]))
    return ngrams


def shares_ngram(text: str, ngrams: Set[str]) -> bool:
    """Whether 13 consecutive words of `text` are among `ngrams`."""
    return bool(ngrams) and any(ngram in ngrams for ngram in word_ngrams(text))
