"""What is computed once and kept on disk: every process of a run takes the same, and no other run computes it at the
same time."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from lib.paths import cache_lock

Value = TypeVar("Value")


@contextmanager
def cache_entry(
    path: Path, read: Callable[[], Value], is_whole: Callable[[Value], bool], accelerator: Accelerator
) -> Iterator[tuple[Value, bool]]:
    """What the main process `read` of the cache entry `path`, on every process, and whether the main process may write
    it: not where it is whole already, nor where the cache cannot be written.

    What others compute now is waited for, and taken.
    """
    with ExitStack() as stack:
        value, writable = None, False
        if accelerator.is_main_process:
            value = read()
            if not is_whole(value):
                writable = stack.enter_context(cache_lock(path))
                value = read()
        yield broadcast_object_list([value])[0], writable
