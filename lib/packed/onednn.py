"""fp32 products on a CPU by the faster of two libraries. PyTorch's own are MKL's, which on AMD processors leave AVX-512
unused: at the shapes of a model oneDNN is more than twice as fast there. On all others MKL takes a fifth less."""

from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def applies(states: Tensor) -> bool:
    """Whether products with `states` are ours to take: fp32 on a CPU, not empty, and no autocast."""
    usual = states.device.type == "cpu" and states.dtype == torch.float32 and states.numel() > 0
    return usual and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def batched(dtype: torch.dtype) -> bool:
    """Whether many small products of this type go in one call. oneDNN takes fp32's one at a time only."""
    return dtype == torch.bfloat16 or _mkl_is_faster()


@cache
def _processor() -> frozenset[str]:
    """The words that the system says of this processor."""
    with suppress(OSError):
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return frozenset()


def _mkl_is_faster() -> bool:
    return torch.backends.mkl.is_available() and ("GenuineIntel" in _processor() or "avx512f" not in _processor())


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """states [..., I] by weight [O, I] (of any strides) and bias [O], without a gradient."""
    if applies(states) and not _mkl_is_faster():
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)


def weight_gradient(outputs: Tensor, inputs: Tensor) -> Tensor:
    """outputs.T @ inputs [O, I] of outputs [..., O] and inputs [..., I], without a gradient."""
    outputs, inputs = outputs.flatten(0, -2).t(), inputs.flatten(0, -2).t()
    # The narrower side as rows: 5 times as fast where one of them is an adapter's rank.
    return linear(outputs, inputs) if len(outputs) <= len(inputs) else linear(inputs, outputs).t()
