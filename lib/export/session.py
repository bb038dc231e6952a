"""An export as a scorer: its graph in onnxruntime, in the place of PyTorch's packed pass."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lib.checksums import sha256_of_file
from lib.errors import InputError
from lib.export.files import TOKENIZER_FILE, read_export
from lib.export.graph import OUTPUT
from lib.packed.pack import PackedBatch
from lib.questions.readers import read_rows


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """The graph at `path` in onnxruntime, on the CPU. Raises InputError where it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False  # every question has its own shape
    options.log_severity_level = 3
    if _products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base
        raise InputError(f"{path.name}: onnxruntime cannot load it ({' '.join(str(error).split())[:300]})") from None


def onnx_scorer(path: Path) -> Callable[[PackedBatch], np.ndarray]:
    """The scoring graph at `path` in the place of PyTorch's packed pass: packed questions to log-probs [B, K]."""
    session = open_session(path)
    return lambda batch: session.run([OUTPUT], {name: tensor.numpy() for name, tensor in batch.tensors().items()})[0]


def _products_saturate() -> bool:
    """Whether onnxruntime's products of unsigned by signed 8 bits saturate here: on x86 without VNNI. It has exact ones
    too, which take twice the time where there is VNNI. Where the processor does not say, they are taken."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


class OnnxScorer(nn.Module):
    """An exported graph in the place of `PackedScorer`; it runs on the CPU."""

    def __init__(self, path: Path):
        super().__init__()
        self.run = onnx_scorer(path)

    def forward(self, batch: PackedBatch) -> Tensor:
        return torch.from_numpy(self.run(batch.to("cpu")))


def _check_golden(path: Path) -> None:
    """Raises InputError where the golden questions, if they lie beside it, are not of this very .onnx file, whose
    graph and small tensors no other hash covers."""
    golden, sha256 = path.with_suffix(".golden.jsonl"), sha256_of_file(path)
    if golden.exists() and any(row.get("model_sha256") != sha256 for _, row in read_rows(golden)):
        raise InputError(f"{golden}: not of the export that {path.name} is; copy all its files, or export it again")


def open_export(path: Path) -> tuple[OnnxScorer, PreTrainedTokenizerBase, dict[str, str]]:
    """The graph, the tokenizer that lies beside it, and its metadata, which hold the prompt contract and the training.

    Raises InputError where a file is missing, or was not written by export.py together with the others.
    """
    metadata = read_export(path)
    file = path.parent / metadata.get("tokenizer_file", TOKENIZER_FILE)
    for what, beside, sha256 in (
        ("tokenizer", file, metadata["tokenizer_sha256"]),
        ("weights", path.parent / metadata["data_file"], metadata["weights_sha256"]),
    ):
        if not beside.is_file() or sha256_of_file(beside) != sha256:
            raise InputError(f"{beside}: not the {what} that {path.name} was exported with; export the model again")
    if metadata["format_version"] != "1":  # whose golden questions name no file
        _check_golden(path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        bos_token=metadata.get("start_token") or None,
        eos_token=metadata["end_token"] or None,
    )
    tokenizer.model_max_length = int(1e9)
    return OnnxScorer(path), tokenizer, metadata
