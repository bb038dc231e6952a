"""Which folder a run works in, and that no other process works there meanwhile."""

import itertools
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lib.errors import InputError
from lib.models.runs import RUN_FILE, RUNS, read_run
from lib.paths import INCOMPLETE, lock

LOCK_FILE = ".lock"
RECORDS = (RUN_FILE, f"pretraining/{RUN_FILE}")  # one of them is in every folder that can be gone on with
LEFT_BEHIND = (f"*{INCOMPLETE}", ".tmp??????")  # the second by safetensors, in the middle of a file


class FolderTaken(InputError):
    """The folder holds something, or another process works in it."""


@contextmanager
def claimed(folder: Path, *, new: bool) -> Iterator[None]:
    """The run `folder` for this process alone until the block ends, without what a killed one left half-written. A
    `new` one is made, and removed where nothing was put into it in the end.

    Raises FolderTaken where another process has it or a new one holds something, InputError where there is none to go
    on with.
    """
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        _check_empty(folder)
    elif not any((folder / record).is_file() for record in RECORDS):
        # Before anything is removed below it: the folder may be another one by mistake.
        raise InputError(f"{folder}: no run to go on with (it has no {RUN_FILE}); give the command without --resume")
    file = lock(folder / LOCK_FILE)
    if file is None:
        raise FolderTaken(f"{folder}: another process works in it; wait for its end, or choose another --output")
    try:
        if new:
            _check_empty(folder)  # it may have been another's for a moment
        for left in [path for pattern in LEFT_BEHIND for path in folder.rglob(pattern)]:  # by a killed process
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        file.close()


def _check_empty(folder: Path) -> None:
    if any(path.name != LOCK_FILE and not path.name.endswith(INCOMPLETE) for path in folder.iterdir()):
        raise FolderTaken(f"{folder}: exists already; choose another --output, or go on with --resume")


@contextmanager
def claim_run(output: Path | None, name: str, *, resume: bool) -> Iterator[Path]:
    """A run's folder, `claimed` until the block ends: `output`, else a new `runs/NAME` (a number is added where that is
    taken), or with `resume` the newest unfinished one that no other process works in."""
    if output:
        folders: Iterable[Path] = [output]
    else:
        folders = _unfinished() if resume else _new_folders(name)
    with ExitStack() as stack:
        for folder in folders:
            try:
                stack.enter_context(claimed(folder, new=not resume))
                break
            except FolderTaken:
                if output:
                    raise
        else:
            raise InputError("--resume: no unfinished run under runs/ that no process works in; name one with --output")
        yield folder


def _new_folders(name: str) -> Iterator[Path]:
    return itertools.chain([RUNS / name], (RUNS / f"{name}-{number}" for number in itertools.count(2)))


def _unfinished() -> list[Path]:
    """The unfinished runs under runs/, the newest first."""
    records = sorted(RUNS.glob(f"*/{RUN_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in records if not read_run(path.parent).get("finished")]
