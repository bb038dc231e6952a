"""Many opinions as running text, worked on in parallel; those that a test question's words stand in are left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from lib.errors import InputError
from lib.mining.opinions import Opinion, clean, count_words, read_opinions
from lib.mining.overlap import held_out_ngrams, shares_ngram
from lib.progress import progress

CHUNK = 16  # opinions a worker takes at once


@dataclass(frozen=True)
class Corpus:
    """opinions: those kept, their texts from `opinions.clean`. num_read: all. num_excluded: those left out."""

    opinions: list[Opinion]
    num_read: int
    num_excluded: int


def load_corpus(paths: Iterable[Path], exclude: Iterable[Path], workers: int) -> Corpus:
    """The opinions of `paths`, without those that share 13 consecutive words with the validation and test questions of
    `exclude` (`overlap.py`). The same for any number of workers."""
    ngrams = held_out_ngrams(exclude)
    opinions = list(read_opinions(paths))
    texts = [opinion.text for opinion in opinions]
    words: Counter[str] = Counter()
    for counts in parallel(count_words, texts, workers, "counting words"):
        words.update(counts)
    cleaned = list(parallel(_clean_or_exclude, texts, workers, "cleaning", words, ngrams))
    kept = [Opinion(opinion.source, text) for opinion, text in zip(opinions, cleaned, strict=True) if text is not None]
    if not kept:
        raise InputError("no opinion is left: every one shares words with the questions to exclude")
    return Corpus(kept, len(opinions), len(opinions) - len(kept))


def parallel(function: Callable, items: Sequence, workers: int, description: str, *shared) -> Iterator:
    """`function(item, *shared)` of each item in their order, by `workers` processes (1: by this one), with a progress
    bar. `shared` is sent to each process once; `function` must stand at the top of a module."""
    with progress(total=len(items), desc=description, unit="opinion") as bar:
        if workers == 1:
            for item in items:
                yield function(item, *shared)
                bar.update()
            return
        # Spawned, not forked: a fork copies the locks of whatever threads run here.
        with get_context("spawn").Pool(workers, _start_worker, (function, shared)) as pool:
            for result in pool.imap(_work, items, CHUNK):
                yield result
                bar.update()


def _start_worker(function: Callable, shared: tuple) -> None:
    global _task
    _task = function, shared


def _work(item):
    function, shared = _task
    return function(item, *shared)


def _clean_or_exclude(text: str, words: Counter[str], ngrams: set[str]) -> str | None:
    text = clean(text, words)
    return None if shares_ngram(text, ngrams) else text
