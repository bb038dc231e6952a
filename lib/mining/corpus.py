"""Opinions as running text, worked on in parallel as they are read, so that no corpus need fit in memory; those that a
test question's words stand in are left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lib.cluster import in_order
from lib.errors import InputError
from lib.mining.opinions import clean, count_words
from lib.mining.overlap import shares_ngram
from lib.mining.parentheticals import Holding, holdings_and_problems
from lib.mining.propositions import propositions
from lib.mining.sources import Opinion, read_opinions
from lib.mining.workers import Workers, started
from lib.progress import progress

BLOCK = 16  # opinions that a worker takes at once


@dataclass(frozen=True)
class Corpus:
    """opinions: those kept, their texts from `opinions.clean`. num_read: all. num_excluded: those left out."""

    opinions: list[Opinion]
    num_read: int
    num_excluded: int


@dataclass(frozen=True)
class Found:
    """What stands in an opinion. problems: why parentheticals that open as a holding's do were dropped."""

    holdings: list[Holding]
    problems: list[str]
    propositions: list[Holding]


def word_counts(paths: Iterable[Path], workers: Workers) -> tuple[Counter[str], int]:
    """`opinions.count_words` of all opinions together, and how many opinions there are; InputError where there are
    none."""
    words: Counter[str] = Counter()
    total = 0
    for _, counts in parallel(count_words, read_opinions(paths), workers, "counting words"):
        words.update(counts)
        total += 1
    if not total:
        raise InputError(f"{next(iter(paths))}: holds no opinion; each row must hold one's text")
    return words, total


def load_corpus(paths: Iterable[Path], ngrams: np.ndarray, workers: Workers) -> Corpus:
    """The opinions of `paths`, without those that share 13 consecutive words with the questions that `ngrams` are of
    (`overlap.held_out_ngrams`). The same for any number of workers."""
    words, total = word_counts(paths, workers)
    cleaned = parallel(clean_or_exclude, read_opinions(paths), workers, "cleaning", words, ngrams, total=total)
    kept = [Opinion(source, text) for source, text in cleaned if text is not None]
    if not kept:
        raise all_excluded()
    return Corpus(kept, total, total - len(kept))


def all_excluded() -> InputError:
    return InputError("no opinion is left: every one shares words with the questions to exclude")


def clean_or_exclude(text: str, words: Counter[str], ngrams: np.ndarray) -> str | None:
    text = clean(text, words)
    return None if shares_ngram(text, ngrams) else text


def find(text: str, words: Counter[str], ngrams: np.ndarray, with_propositions: bool) -> Found | None:
    """Of an opinion as it was read; None where it is excluded."""
    text = clean_or_exclude(text, words, ngrams)
    if text is None:
        return None
    return Found(*holdings_and_problems(text), propositions(text) if with_propositions else [])


def parallel(
    function: Callable, opinions: Iterable[Opinion], workers: Workers, bar: str, *shared, total: int | None = None
) -> Iterator[tuple]:
    """The source of each opinion and `function(text, *shared)`, in their order, with a progress bar of that name.
    `shared` is sent to each process once; `function` must stand at the top of a module."""
    with (
        started(workers, _of_all, function, *shared) as (submit, ahead),
        progress(total=total, desc=bar, unit="opinion") as shown,
    ):
        for block, results in in_order(submit, batches(opinions), ahead):
            yield from zip((opinion.source for opinion in block), results, strict=True)
            shown.update(len(block))


def batches(opinions: Iterable[Opinion]) -> Iterator[list[Opinion]]:
    rest = iter(opinions)
    while block := list(islice(rest, BLOCK)):
        yield block


def _of_all(opinions: list[Opinion], function: Callable, *shared) -> list:
    return [function(opinion.text, *shared) for opinion in opinions]
