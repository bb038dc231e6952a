"""Weights in another precision, and nothing else of a model with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters in place, as loading in `dtype` does. `model.to(dtype)` would cast buffers too, among them
    the frequencies of the rotary embedding: in bf16 they turn token 450 by up to 0.4 rad too little or too far."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


@contextmanager
def parameters_in_fp32(model: nn.Module) -> Iterator[None]:
    """Within it every parameter is in fp32, and afterwards what it was to the bit: fp32 holds all that bf16 and fp16
    do."""
    dtypes = [parameter.dtype for parameter in model.parameters()]
    try:
        cast_parameters(model, torch.float32)
        yield
    finally:
        for parameter, dtype in zip(model.parameters(), dtypes, strict=True):
            parameter.data = parameter.data.to(dtype)
