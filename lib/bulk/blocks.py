"""Files of questions, JSON lines or parquet, in blocks of rows, and files of their predictions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, islice
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lib.bulk.places import below, files_below, located, parent
from lib.errors import InputError

FORMS = ("jsonl", "parquet")
BLANK = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors begin a file with it
PREDICTION = pa.schema(
    {
        "id": pa.string(),
        "prediction": pa.int64(),
        "label": pa.int64(),
        "score": pa.string(),
        "logprobs": pa.list_(pa.float64()),
        "neutral_logprobs": pa.list_(pa.float64()),
        "reference_logprobs": pa.list_(pa.float64()),
        "tokens": pa.list_(pa.int64()),
        "bytes": pa.list_(pa.int64()),
        "truncated": pa.int64(),
        "endings_truncated": pa.list_(pa.int64()),
        "contract": pa.string(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class Source:
    """A file of questions. place: a path or an address. name: where it lies in the folder that was given."""

    place: str
    name: str
    num_bytes: int


@dataclass(frozen=True)
class Block:
    """Rows `first` to before `first + rows` of a file, from 0. part: where they are, the byte at which they begin in
    JSON lines, the row group in parquet; skip: rows of the row group before them."""

    source: str
    name: str
    first: int
    rows: int
    part: int
    skip: int = 0

    def output(self, form: str) -> str:
        """Its predictions, below the output folder; of one file they are in order by name."""
        return f"{self.name}/{self.first:012d}-{self.first + self.rows - 1:012d}.{form}"


def form_of(path: str) -> str:
    return PurePosixPath(path).suffix.removeprefix(".").lower()


def sources(place: str) -> list[Source]:
    """The files of questions at `place`, a file or a folder with all below it, in order by name.

    Raises InputError where there are none.
    """
    try:
        system, path = located(place)
        there = system.get_file_info(path)
        if there.type == fs.FileType.NotFound:
            raise InputError(f"{place}: no such file or folder")
        if there.type == fs.FileType.File:
            place, name = parent(place)
            found = {name: there.size}
        else:
            found = files_below(place)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{place}: cannot be read ({error})") from None
    found = {name: size for name, size in sorted(found.items()) if form_of(name) in FORMS}
    if not found:
        raise InputError(f"{place}: holds no questions; they are read from .jsonl and .parquet files")
    return [Source(below(place, name), name, size) for name, size in found.items()]


def blocks(source: Source, size: int) -> list[Block]:
    """A file in blocks of at most `size` rows; blank lines are no rows."""
    system, path = located(source.place)
    try:
        if form_of(path) == "parquet":
            return list(_of_parquet(system, path, source, size))
        return list(_of_lines(system, path, source, size))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source.place}: cannot be read ({error})") from None


def _of_parquet(system: fs.FileSystem, path: str, source: Source, size: int) -> Iterator[Block]:
    first = 0
    with system.open_input_file(path) as file:
        metadata = pq.ParquetFile(file).metadata
    for group in range(metadata.num_row_groups):
        total = metadata.row_group(group).num_rows
        for skip in range(0, total, size):
            rows = min(size, total - skip)
            yield Block(source.place, source.name, first, rows, group, skip)
            first += rows


def _of_lines(system: fs.FileSystem, path: str, source: Source, size: int) -> Iterator[Block]:
    first = rows = place = part = 0
    with system.open_input_stream(path) as file:
        for line in BufferedReader(file):
            text = line.removeprefix(BYTE_ORDER_MARK) if not place else line
            if _is_row(text):
                if rows == size:
                    yield Block(source.place, source.name, first, rows, part)
                    first, rows, part = first + rows, 0, place
                rows += 1
            place += len(line)
    if rows:
        yield Block(source.place, source.name, first, rows, part)


def read(block: Block) -> list[bytes]:
    """The rows of a block as JSON, a line each. A column of parquet that is null or NaN is one that the row lacks.

    Raises InputError where the file holds fewer of them than when it was cut.
    """
    system, path = located(block.source)
    with system.open_input_file(path) as file:
        if form_of(path) == "parquet":
            found = map(_present, _of_group(pq.ParquetFile(file), block))
            rows = [json.dumps(row, ensure_ascii=False, default=str).encode() for row in found]
        else:
            file.seek(block.part)
            lines = (line.rstrip(b"\n") for line in BufferedReader(file))
            first = next(lines, b"")
            first = first.removeprefix(BYTE_ORDER_MARK) if not block.part else first
            rows = list(islice(filter(_is_row, chain([first], lines)), block.rows))
    if len(rows) != block.rows:
        raise InputError(f"{block.source}: has changed since it was cut into blocks; choose another --output")
    return rows


def _of_group(file: pq.ParquetFile, block: Block) -> Iterator[dict]:
    """Batch by batch: a row group may be all of a file."""
    skip, missing = block.skip, block.rows
    for batch in file.iter_batches(row_groups=[block.part]):
        found = batch.slice(min(skip, batch.num_rows), missing)
        yield from found.to_pylist()
        skip, missing = max(0, skip - batch.num_rows), missing - found.num_rows
        if not missing:
            return


def _present(row: dict) -> dict:
    """Without what a column lacks of it: null, and what pandas writes for it among numbers."""
    return {name: value for name, value in row.items() if value is not None and value == value}


def _is_row(line: bytes) -> bool:
    return bool(line.strip(BLANK))


def as_file(lines: Sequence[bytes], form: str) -> bytes:
    """Predictions, a JSON line each, as a file of the form."""
    if form == "jsonl":
        return b"".join(line + b"\n" for line in lines)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines], PREDICTION), sink)
    return sink.getvalue().to_pybytes()
