"""Where things are kept, how a file or folder appears whole or not at all, and how one process works there alone."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lib.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
CACHE_DIR = ROOT / ".cache"
INCOMPLETE = ".incomplete"  # ends the names of what is being written, or was when its process was killed


def check_writable(path: Path) -> None:
    """Raises InputError where nothing can be made at `path`: to be known before it is computed."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise InputError(f"{path}: {place} is no folder; name another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path}: {place} cannot be written to; name another place")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it on success, removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`; renamed to it on success, removed on failure.

    Where another process was quicker its folder stays. With `shared`, as for caches, both hold the same and this one is
    dropped; else it is kept under another name, and InputError says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        flush(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
            if not shared:
                kept = path.with_name(f"{path.name}.{os.getpid()}")
                temporary.rename(kept)
                raise InputError(f"{path}: another process made it meanwhile; what was made here is {kept}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{INCOMPLETE}")


def flush(path: Path) -> None:
    """Return when a file, or a folder and all that it holds, is on disk: from then on a loss of power takes nothing."""
    if path.is_dir():
        for inner in path.iterdir():
            flush(inner)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, *, waiting: str | None = None) -> BinaryIO | None:
    """The file `path`, made where it is not there, locked: it stays so until it is closed here and in every process
    that inherited it, however they end.

    Where another process has it: None, or with `waiting`, print that and wait.
    """
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                file.close()
                return None
            print(f"{path.parent}: {waiting}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            print(f"warning: {path}: this file system has no locks; keep other processes away", flush=True)
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # whoever had it has removed it: what is locked is no longer `path`


@contextmanager
def cache_lock(path: Path) -> Iterator[bool]:
    """Whether the cache entry `path` can be written, which no other process does until the block ends; where one does
    now, wait for it. A cache that cannot be written is a warning."""
    guard, file = path.with_suffix(".lock"), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock(guard, waiting="another process computes the same; waiting for it")
    except OSError as error:
        warn_not_kept(path, error)
    try:
        yield file is not None
    finally:
        if file:
            guard.unlink(missing_ok=True)
            file.close()


def warn_not_kept(path: Path, error: Exception) -> None:
    print(f"warning: {path.parent}: cannot be written ({getattr(error, 'strerror', None) or error}); nothing is kept")


def source_sha256(*files: str) -> str:
    """SHA-256 over source files: the key of what they generate, so that a change of theirs makes it anew."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
