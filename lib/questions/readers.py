"""Files of questions as rows: which file holds a split, and JSON lines or csv one row at a time.

A row is (line, columns): the physical line it starts on, from 1, and its values by column name.
"""

import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lib.errors import InputError
from lib.questions.hub_data import DATA_NAMES

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SUFFIXES = (".jsonl", ".json", ".csv")
COMPRESSED = {".xz": lzma.open, ".gz": gzip.open}
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def find_split(data: str, split: str) -> Path:
    """The file of a split ("train", "validation" or "test"): `data` itself, or the file of that name in the folder.

    Raises InputError where there is none, where two could be meant, and where the suffix is not a known one.
    """
    path = Path(data)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: its name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; --data takes {DATA_NAMES}, a folder or a file")
    found = [file for name in SPLIT_NAMES[split] for suffix in SUFFIXES if (file := path / f"{name}{suffix}").is_file()]
    if not found:
        there = ", ".join(sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES))
        raise InputError(
            f"{path}: no file for the {split} split ({split}.jsonl or {split}.csv); "
            f"{f'there is {there}' if there else 'no .jsonl, .json or .csv file is there'}"
        )
    if len(found) > 1:
        raise InputError(
            f"{path}: {' and '.join(file.name for file in found)} could both be the {split} split; name one with --data"
        )
    return found[0]


def has_own_split(data: str, split: str) -> bool:
    """Whether a split has a file to itself; a single file serves every split."""
    names = [f"{name}{suffix}" for name in SPLIT_NAMES[split] for suffix in SUFFIXES]
    return any((Path(data) / name).is_file() for name in names)


def read_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """The rows of a .jsonl, .json (one object a line; also compressed as .xz or .gz) or .csv file (with a header), read
    as they are asked for.

    Blank lines are passed over. csv values are strings. Raises InputError that names the line for what is not UTF-8,
    broken JSON, a lone surrogate, or a csv row that does not fit the header.
    """
    return _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a text file, one a line, white space around them stripped; blank lines are passed over.

    Raises InputError that names the line for a name that stands twice, and where there are fewer than two.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; --candidates takes a text file with one class name a line")
    lines: dict[str, int] = {}
    for number, text in _lines(path):
        name = text.strip()
        if name in lines:
            raise InputError(f"{path}:{number}: class name {name!r:.60} stands already in line {lines[name]}")
        if name:
            lines[name] = number
    if len(lines) < 2:
        raise InputError(f"{path}: {len(lines)} class names; a question needs 2 or more candidates")
    return tuple(lines)


def read_text(path: Path) -> str:
    """The whole of a text file, as UTF-8; raises InputError that names the line for what is not."""
    return "".join(text for _, text in _lines(path))


def _open(path: Path) -> IO[bytes]:
    return COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes are split at \n alone: str.splitlines would also break at U+2028 and others that JSON strings may hold.
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
                    ) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:  # the last three: cut short, or damaged
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    for number, text in _lines(path):
        if not text.strip(" \t\r\n"):
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(text.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: column {error.colno}: broken JSON ({error.msg}); each line must be one object"
            ) from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise InputError(f"{where}: JSON that cannot be read ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: each line must be one JSON object, this is a {type(row).__name__}")
        if _SURROGATE_ESCAPE.search(text):
            _refuse_lone_surrogates(where, row)
        yield number, row


def _refuse_lone_surrogates(where: str, row: dict) -> None:
    for field, value in row.items():
        try:
            json.dumps([field, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{where}: field {field!r}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
            ) from None


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 KiB; opinions are longer
    # strict: without it an unclosed quote swallows the rest of the file in silence
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
    header = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}:{line}: broken csv row ({error}); quote the field and double its quotes"
            ) from None
        if not cells:
            continue
        if header is None:
            header = cells
            twice = [name for index, name in enumerate(header) if name in header[:index]]
            if twice:
                raise InputError(f"{path}:{line}: field {twice[0]!r}: the header names it twice")
            continue
        if len(cells) < len(header):
            raise InputError(
                f"{path}:{line}: field {header[len(cells)]!r}: is missing; "
                f"the row has {len(cells)} columns, the header {len(header)}"
            )
        if len(cells) > len(header):
            raise InputError(
                f"{path}:{line}: columns after field {header[-1]!r}: the row has {len(cells)}, "
                f"the header {len(header)}; quote fields that hold commas"
            )
        yield line, dict(zip(header, cells, strict=True))
