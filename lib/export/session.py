"""An export as a scorer: its graph in onnxruntime, in the place of PyTorch's packed pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lib.errors import InputError
from lib.export.files import FORMAT_VERSION, TOKENIZER_FILE, read_metadata, sha256_of_file
from lib.export.graph import OUTPUT
from lib.packed.pack import PackedBatch
from lib.questions.prompt import PromptConfig


def onnx_scorer(path: Path) -> Callable[[PackedBatch], np.ndarray]:
    """The scoring graph at `path` in onnxruntime, on the CPU. Raises InputError where it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False  # every question has its own shape
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base
        raise InputError(f"{path.name}: onnxruntime cannot load it ({' '.join(str(error).split())[:300]})") from None
    return lambda batch: session.run([OUTPUT], {name: tensor.numpy() for name, tensor in batch.tensors().items()})[0]


class OnnxScorer(nn.Module):
    """An exported graph in the place of `PackedScorer`; it runs on the CPU."""

    def __init__(self, path: Path):
        super().__init__()
        self.run = onnx_scorer(path)

    def forward(self, batch: PackedBatch) -> Tensor:
        return torch.from_numpy(self.run(batch.to("cpu")))


def open_export(path: Path) -> tuple[OnnxScorer, PreTrainedTokenizerBase, PromptConfig]:
    """The graph, the tokenizer that lies beside it, and the prompt contract in its metadata.

    Raises InputError where a file is missing, or was not written by export.py together with the others.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with `python export.py --output {path}`")
    metadata = read_metadata(path)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a scoring graph of format {FORMAT_VERSION}; export it with `python export.py`")
    file = path.parent / metadata.get("tokenizer_file", TOKENIZER_FILE)
    if not file.is_file() or sha256_of_file(file) != metadata["tokenizer_sha256"]:
        raise InputError(f"{file}: not the tokenizer that {path.name} was exported with; export the model again")
    end_token = metadata["end_token"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end_token or None)
    tokenizer.model_max_length = int(1e9)
    prompt = PromptConfig(metadata["template"], int(metadata["max_length"]), end_token=bool(end_token))
    return OnnxScorer(path), tokenizer, prompt
