"""What a model is tested on must not stand in what it is trained on: texts are compared by 13-grams of words.

A 13-gram is kept as 64 bits, a tenth of its text. Two of different words get the same with odds of 2^-64: among the
10^8 of a large corpus against 10^6 of test questions, one text in a hundred thousand such corpora is left out for
nothing. One that shares 13 words is never missed.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from lib.errors import InputError
from lib.mining.holdings import PUNCTUATION, filled_passage
from lib.questions.data import load_split

NGRAM_WORDS = 13
HELD_OUT_SPLITS = ("validation", "test")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


def word_ngrams(text: str) -> Iterator[str]:
    """Every run of 13 consecutive words of `text`, in lower case; with punctuation as a gap between words, and again
    with it deleted, since that is how CaseHOLD's candidates were made ("plaintiff's" is "plaintiffs" there)."""
    text = text.lower()
    for words in (_NOT_ALPHANUMERIC.sub(" ", text).split(), PUNCTUATION.sub("", text).split()):
        for start in range(len(words) - NGRAM_WORDS + 1):
            yield " ".join(words[start : start + NGRAM_WORDS])


def ngram_hashes(text: str) -> np.ndarray:
    """The distinct `word_ngrams` of `text` as sorted 64-bit hashes [N], the same in every process."""
    return np.unique(np.fromiter((xxh3_64_intdigest(ngram.encode()) for ngram in word_ngrams(text)), np.uint64))


def ngrams_of(texts: Iterable[str]) -> np.ndarray:
    """`ngram_hashes` of all of `texts` together."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *map(ngram_hashes, texts)]))


def held_out_ngrams(sources: Iterable[Path]) -> np.ndarray:
    """The `ngrams_of` the questions of `sources`: of a folder its validation and test splits, of a file all. A question
    counts with its right ending, alone and in the place of the mask."""
    return ngrams_of(_held_out_texts(sources))


def _held_out_texts(sources: Iterable[Path]) -> Iterator[str]:
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; questions to exclude come from a folder or a file")
        for split in HELD_OUT_SPLITS if source.is_dir() else HELD_OUT_SPLITS[:1]:
            for question in load_split(str(source), split).questions:
                yield filled_passage(question)
                yield question.endings[question.label]


def shares_ngram(text: str, ngrams: np.ndarray) -> bool:
    """Whether 13 consecutive words of `text` are among `ngrams`, which `ngrams_of` made."""
    if not len(ngrams):
        return False
    hashes = ngram_hashes(text)
    # The last place stands for those that would come after all of `ngrams`; no hash there equals it.
    places = np.minimum(np.searchsorted(ngrams, hashes), len(ngrams) - 1)
    return bool((ngrams[places] == hashes).any())
