"""SHA256SUMS: whether the files of a folder are still what was written, which a flipped bit in weights would not show.

The file is the one that `sha256sum -c SHA256SUMS` reads.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lib.errors import InputError
from lib.paths import atomic_file

SUMS_FILE = "SHA256SUMS"


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the sums of the files `names` of `folder`, by default of all files in it."""
    names = names or (path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS_FILE)
    lines = [f"{sha256_of_file(folder / name)}  {name}\n" for name in sorted(names)]
    with atomic_file(folder / SUMS_FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Return if every file named in the folder's SHA256SUMS, where it has one, is as it was written.

    Raises InputError that names the one that is not, or is missing.
    """
    path = folder / SUMS_FILE
    if not path.exists():
        return
    for line in path.read_bytes().decode(errors="replace").split("\n"):
        wanted, _, name = line.partition(" ")
        name = name[1:]  # behind a space, or the "*" of `sha256sum -b`
        file = folder / name
        if line and not (name and file.is_file() and sha256_of_file(file) == wanted):
            raise InputError(
                f"{file if name else path}: not as it was written (its SHA-256 is not that in {SUMS_FILE}); copy the "
                "folder again, or remove it and make it anew"
            )
