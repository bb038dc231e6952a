"""Weights in another precision, and nothing else of a model with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def is_four_bit(model: nn.Module) -> bool:
    """Whether transformers loaded it, or what PEFT wraps, in 4 bits by bitsandbytes."""
    return getattr(model, "is_loaded_in_4bit", False)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters in place, as loading in `dtype` does. `model.to(dtype)` would cast buffers too, among them
    the frequencies of the rotary embedding: in bf16 they turn token 450 by up to 0.4 rad too little or too far. Weights
    in 4 bits stay."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def parameters_in_fp32(model: nn.Module) -> Iterator[None]:
    """Within it every parameter is in fp32, and afterwards what it was to the bit: fp32 holds all that bf16 and fp16
    do. Weights in 4 bits stay, and are multiplied in fp32."""
    dtypes = [(parameter, parameter.dtype) for parameter in model.parameters() if parameter.is_floating_point()]
    products = [(module, module.compute_dtype) for module in model.modules() if hasattr(module, "compute_dtype")]
    try:
        cast_parameters(model, torch.float32)
        for module, _ in products:
            module.compute_dtype = torch.float32
        yield
    finally:
        for parameter, dtype in dtypes:
            parameter.data = parameter.data.to(dtype)
        for module, dtype in products:
            module.compute_dtype = dtype
