"""Many opinions as running text, worked on in parallel; those that a test question's words stand in are left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lib.errors import InputError
from lib.mining.opinions import Opinion, clean, count_words, read_opinions
from lib.mining.overlap import shares_ngram
from lib.progress import progress

CHUNK = 16  # opinions a worker takes at once


@dataclass(frozen=True)
class Corpus:
    """opinions: those kept, their texts from `opinions.clean`. num_read: all. num_excluded: those left out."""

    opinions: list[Opinion]
    num_read: int
    num_excluded: int


def load_corpus(paths: Iterable[Path], ngrams: np.ndarray, workers: int) -> Corpus:
    """The opinions of `paths`, without those that share 13 consecutive words with the questions that `ngrams` are of
    (`overlap.held_out_ngrams`). The same for any number of workers."""
    opinions: list[Opinion | None] = list(read_opinions(paths))
    words: Counter[str] = Counter()
    for counts in parallel(count_words, opinions, workers, "counting words"):
        words.update(counts)
    cleaned = parallel(_clean_or_exclude, opinions, workers, "cleaning", words, ngrams)
    # Each text takes the place of its raw form, so that the corpus is never held twice.
    for number, text in enumerate(cleaned):
        opinions[number] = None if text is None else Opinion(opinions[number].source, text)
    kept = [opinion for opinion in opinions if opinion is not None]
    if not kept:
        raise InputError("no opinion is left: every one shares words with the questions to exclude")
    return Corpus(kept, len(opinions), len(opinions) - len(kept))


def parallel(function: Callable, opinions: Sequence[Opinion], workers: int, description: str, *shared) -> Iterator:
    """`function(text, *shared)` of each opinion's text in their order, by `workers` processes (1: by this one), with a
    progress bar. `shared` is sent to each process once; `function` must stand at the top of a module."""
    texts = (opinion.text for opinion in opinions)
    with progress(total=len(opinions), desc=description, unit="opinion") as bar:
        if workers == 1:
            for text in texts:
                yield function(text, *shared)
                bar.update()
            return
        # Spawned, not forked: a fork copies the locks of whatever threads run here.
        with get_context("spawn").Pool(workers, _start_worker, (function, shared)) as pool:
            for result in pool.imap(_work, texts, CHUNK):
                yield result
                bar.update()


def _start_worker(function: Callable, shared: tuple) -> None:
    global _task
    _task = function, shared


def _work(text: str):
    function, shared = _task
    return function(text, *shared)


def _clean_or_exclude(text: str, words: Counter[str], ngrams: np.ndarray) -> str | None:
    text = clean(text, words)
    return None if shares_ngram(text, ngrams) else text
