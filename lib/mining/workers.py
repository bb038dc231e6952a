"""Who works on many items at once: processes of this machine, or tasks on a Ray cluster."""

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread

from lib.cluster import Shared, Tasks, received
from lib.errors import InputError

AHEAD = 4  # items a worker that are made before their turn

Workers = int | Tasks  # processes (1: this one), or tasks


@contextmanager
def started(workers: Workers, function: Callable, *shared) -> Iterator[tuple[Callable[..., Future], int]]:
    """What takes an item and gives the future of `function(item, *shared)`, and how many items should be under way.

    `shared` is sent to each process or node once; `function` must stand at the top of a module. Raises InputError where
    a process is killed.
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
        except BrokenProcessPool:
            raise InputError("a worker process was killed, most likely for want of memory; lower --workers") from None
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too, but the one who asks ends us
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    wait([parent_process().sentinel])
    os._exit(1)


def _apply_here(item):
    function, shared = _task
    return function(item, *shared)
