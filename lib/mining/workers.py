"""Who works on many items at once: processes of this machine, or tasks on a Ray cluster."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from lib.cluster import Shared, Tasks, received

AHEAD = 4  # items a worker that are made before their turn

Workers = int | Tasks  # processes (1: this one), or tasks


@contextmanager
def started(workers: Workers, function: Callable, *shared) -> Iterator[tuple[Callable[..., Future], int]]:
    """What takes an item and gives the future of `function(item, *shared)`, and how many items should be under way.

    `shared` is sent to each process or node once; `function` must stand at the top of a module.
    """
    if isinstance(workers, Tasks):
        given = workers.share(shared)
        yield (lambda item: workers.submit(_apply, function, pickle.dumps(item), given)), AHEAD * workers.at_once
    elif workers == 1:
        yield (lambda item: _now(function, item, shared)), 1
    else:
        # Spawned, not forked: a fork copies the locks of whatever threads run here.
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (function, shared))
        try:
            yield (lambda item: pool.submit(_apply_here, item)), AHEAD * workers
        finally:
            pool.shutdown(cancel_futures=True)


def _apply(function: Callable, item: bytes, shared: Shared):
    return function(pickle.loads(item), *received(shared))


def _now(function: Callable, item, shared: tuple) -> Future:
    done: Future = Future()
    done.set_result(function(item, *shared))
    return done


def _start(function: Callable, shared: tuple) -> None:
    global _task
    _task = function, shared


def _apply_here(item):
    function, shared = _task
    return function(item, *shared)
