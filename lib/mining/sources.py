"""Opinions read one by one, from plain files and from those that archives of case law give out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InputError, first_line
from lib.questions.readers import COMPRESSED, read_rows, read_text

SUFFIXES = (".jsonl", ".parquet", ".txt")
TEXT, CASEBODY, PLAIN = "text", "casebody", "plain_text"
# CourtListener's, where an opinion has no plain text; the first that is not empty.
MARKED_UP = ("html_with_citations", "html_columbia", "html_lawbox", "html_anon_2020", "html", "xml_harvard")
BATCH = 64  # rows of parquet at once


@dataclass(frozen=True)
class Opinion:
    """source: "file:line" of rows, or the file, by a name that tells the files apart. text: as it stands there."""

    source: str
    text: str


def read_opinions(paths: Iterable[Path]) -> Iterator[Opinion]:
    """The opinions of files, and of folders with all below them: .jsonl and .parquet (a row each, its text as `text_of`
    finds it) and .txt (a file each); .jsonl and .txt also compressed as .xz or .gz.

    Raises InputError that names file, line and field for what is missing or broken.
    """
    files = [file for path in paths for file in _files(path)]
    return _read(zip(files, _names(files), strict=True))


def _names(files: Sequence[Path]) -> list[str]:
    """What a reader finds each file by: its name or, where two share one, its place below the folder of all."""
    if len({file.name for file in files}) == len(files):
        return [file.name for file in files]
    whole = [file.resolve() for file in files]
    shared = os.path.commonpath([file.parent for file in whole])
    return [str(file.relative_to(shared)) for file in whole]


def _read(files: Iterable[tuple[Path, str]]) -> Iterator[Opinion]:
    for file, name in files:
        if _suffix(file) == ".txt":
            yield Opinion(name, read_text(file))
            continue
        for line, row in _parquet_rows(file) if _suffix(file) == ".parquet" else read_rows(file):
            try:
                yield Opinion(f"{name}:{line}", text_of(row))
            except ValueError as error:
                raise InputError(f"{file}:{line}: {error}; each row must hold an opinion's text there") from None


def text_of(row: Mapping) -> str:
    """An opinion's text: in "text" (ours, and the Caselaw Access Project's as it is on the hub), in "casebody" (the
    project's own bulk files: the texts of all its opinions), or in "plain_text", else in a field with markup, which is
    taken out (CourtListener's bulk data).

    Raises ValueError that names the field where there is none.
    """
    if isinstance(row.get(TEXT), str):
        return row[TEXT]
    if row.get(CASEBODY) is not None:
        return "\n".join(_string(opinion, TEXT, f"{CASEBODY}.opinions.{TEXT}") for opinion in _casebody(row[CASEBODY]))
    if PLAIN not in row and not any(name in row for name in MARKED_UP):
        return _string(row, TEXT, TEXT)
    if row.get(PLAIN):
        return _string(row, PLAIN, PLAIN)
    marked_up = next((name for name in MARKED_UP if row.get(name)), None)
    return _without_markup(_string(row, marked_up, marked_up), marked_up) if marked_up else ""


def _without_markup(text: str, name: str) -> str:
    from eyecite import clean_text  # half a second
    from lxml.etree import LxmlError

    try:
        return clean_text(text, ["xml", "html"]) if text.strip() else ""  # the first takes out a declaration alone
    except LxmlError as error:
        raise ValueError(f"field {name!r}: markup that cannot be read ({first_line(error)})") from None


def _string(row: Mapping, name: str, called: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"field {called!r}: " + (f"{value!r:.60} is not a string" if name in row else "is missing"))
    return value


def _casebody(body) -> list[Mapping]:
    body = body.get("data", body) if isinstance(body, Mapping) else body  # nested where the API wrote the file
    opinions = body.get("opinions") if isinstance(body, Mapping) else None
    if not isinstance(opinions, list) or not all(isinstance(one, Mapping) for one in opinions):
        raise ValueError(f"field '{CASEBODY}.opinions': is not a list of opinions")
    return opinions


def _parquet_rows(file: Path) -> Iterator[tuple[int, dict]]:
    """Rows from 1, of the columns that may hold a text."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            wanted = [name for name in (TEXT, CASEBODY, PLAIN, *MARKED_UP) if name in parquet.schema_arrow.names]
            number = 0
            for batch in parquet.iter_batches(BATCH, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from None


def _suffix(file: Path) -> str:
    return Path(file.stem if file.suffix.lower() in COMPRESSED else file.name).suffix.lower()


def _files(path: Path) -> list[Path]:
    wanted = ", ".join(SUFFIXES) + ", .jsonl and .txt also compressed as " + " or ".join(COMPRESSED)
    if path.is_file():
        if _suffix(path) not in SUFFIXES:
            raise InputError(f"{path}: opinions are read from {wanted}")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in SUFFIXES)
    if not files:
        raise InputError(f"{path}: holds no opinions ({wanted})")
    return files
