"""An export on disk: NAME.onnx, its weights, the tokenizer and golden questions. It appears whole or not at all, and
two exports share a folder only where they share the tokenizer."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from lib.errors import InputError
from lib.paths import INCOMPLETE
from lib.questions.prompt_config import PromptConfig

# Of names, inputs and metadata. Format 1 knows no start token and no bound of endings; cpp_scorer/model_info.cpp reads
# the same.
FORMAT_VERSION, READ_VERSIONS = "2", ("1", "2")
NONE = "-1"  # where the metadata name a token or a bound that there is none of
TOKENIZER_FILE = "tokenizer.json"
HASH_DIGITS = 16  # of the weights' SHA-256, in their file's name
INLINE_BYTES = 1024  # smaller tensors stay in the .onnx file
ALIGNMENT = 4096  # bytes; onnxruntime maps weights into memory by whole pages


def write_model(graph: ir.Model, folder: Path, stem: str, metadata: dict[str, str]) -> Path:
    """Write STEM.onnx and its weights, STEM.HASH.data, into `folder`; return the .onnx file.

    Tensors that are views of a larger one, as the projection's slices are, point into its bytes: tied weights are
    stored once. Metadata gain `data_file` and `weights_sha256`.
    """
    values = [value for value in graph.graph.initializers.values() if value.const_value.nbytes >= INLINE_BYTES]
    values.sort(key=lambda value: -value.const_value.nbytes)  # a view comes after what it looks into
    placed: list[tuple[int, int, int]] = []  # address, bytes, offset in the file
    offsets = []
    digest = hashlib.sha256()
    unnamed = folder / f"{stem}.data"
    with unnamed.open("wb") as file:

        def write(data) -> None:
            digest.update(data)
            file.write(data)

        for value in values:
            address, size = _address(value.const_value), value.const_value.nbytes
            offset = _inside(address, size, placed)
            if offset is None:
                write(bytes(-file.tell() % ALIGNMENT))
                offset = file.tell()
                write(np.ascontiguousarray(value.const_value.numpy()).data)
                if address is not None:
                    placed.append((address, size, offset))
            offsets.append(offset)
    data = unnamed.rename(folder / f"{stem}.{digest.hexdigest()[:HASH_DIGITS]}.data")
    for value, offset in zip(values, offsets, strict=True):
        tensor = value.const_value
        value.const_value = ir.ExternalTensor(
            data.name, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name, base_dir=folder
        )
    graph.metadata_props.update(metadata | {"data_file": data.name, "weights_sha256": digest.hexdigest()})
    path = folder / f"{stem}.onnx"
    ir.save(graph, path)
    return path


def _address(tensor) -> int | None:
    raw = tensor.raw if isinstance(tensor, ir.TensorProtocol) and hasattr(tensor, "raw") else None
    return raw.data_ptr() if isinstance(raw, torch.Tensor) and raw.is_contiguous() else None


def _inside(address: int | None, size: int, placed: list[tuple[int, int, int]]) -> int | None:
    for start, length, offset in placed if address is not None else ():
        if start <= address and address + size <= start + length:
            return offset + address - start
    return None


def add_metadata(path: Path, entries: dict[str, str]) -> None:
    """Write further entries into an .onnx file that was found good; its weights stay where they are."""
    model = onnx.load(path, load_external_data=False)
    for name, value in entries.items():
        model.metadata_props.add(key=name, value=value)
    path.write_bytes(model.SerializeToString())


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of an .onnx file; raises InputError where it is none."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own classes have no common base
        raise InputError(f"{path}: not an ONNX file ({error})") from None
    return {entry.key: entry.value for entry in model.metadata_props}


def contract_in(metadata: dict[str, str]) -> PromptConfig:
    """The prompt contract that a scoring graph's metadata hold."""
    if metadata["format_version"] == "1":
        metadata = metadata | {"max_ending": NONE, "start_token": ""}
    max_ending = metadata["max_ending"]
    return PromptConfig(
        metadata["template"],
        int(metadata["max_length"]),
        end_token=bool(metadata["end_token"]),
        max_ending=None if max_ending == NONE else int(max_ending),
        start_token=bool(metadata["start_token"]),
    )


def positions_in(metadata: dict[str, str]) -> int | None:
    """The longest sequence of which a scoring graph gives the model's own log-probs, None where there is no bound, or
    an older graph does not say."""
    positions = metadata.get("max_positions", NONE)
    return None if positions == NONE else int(positions)


def read_export(path: Path) -> dict[str, str]:
    """The metadata of a scoring graph; raises InputError where the file is none of this format."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with `python export.py --output {path}`")
    metadata = read_metadata(path)
    if metadata.get("format_version") not in READ_VERSIONS:
        known = " or ".join(READ_VERSIONS)
        raise InputError(f"{path}: not a scoring graph of format {known}; export it with `python export.py`")
    return metadata


def check_neighbours(output: Path, tokenizer_file: Path) -> None:
    """Raises InputError where another tokenizer lies in the output's folder and something else may need it, or a text
    of somebody's under the card's name."""
    card = output.with_suffix(".md")
    own = output.exists() or not card.exists() or card.read_bytes().startswith(f"# {output.stem}\n".encode())
    if not own:
        raise InputError(f"{card}: would be written over with the model's card; choose another name with --output")
    present = output.parent / TOKENIZER_FILE
    if not present.exists() or present.read_bytes() == tokenizer_file.read_bytes():
        return
    others = [path for path in sorted(output.parent.glob("*.onnx")) if path != output and read_metadata(path)]
    if others or not output.exists():
        owner = f"{others[0].name} needs it" if others else "it belongs to something else"
        raise InputError(
            f"{present}: not this model's tokenizer, and {owner}; choose a folder of its own with --output"
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside `output` to build the export in; it is gone afterwards, whatever happens."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}.", suffix=INCOMPLETE, dir=output.parent) as folder:
        yield Path(folder)


def publish(model: Path, golden: Path, tokenizer_file: Path, card: Path, output: Path) -> None:
    """Move a checked export to its place: the .onnx file after what the scorer looks for beside it. The weights of an
    export that it replaces are removed. Raises InputError where another export, with a tokenizer of its own, has come
    meanwhile."""
    folder = output.parent
    data = model.with_name(read_metadata(model)["data_file"])
    parts = (data, golden, tokenizer_file, model, card)
    for source in parts:
        with source.open("rb") as file:
            os.fsync(file.fileno())
    check_neighbours(output, tokenizer_file)
    for source in parts:
        source.replace(folder / source.name)
    stale = re.compile(rf"{re.escape(output.stem)}\.[0-9a-f]{{{HASH_DIGITS}}}\.data")
    for path in folder.iterdir():
        if stale.fullmatch(path.name) and path.name != data.name:
            path.unlink()
