"""A frozen base in 4 bits, as QLoRA has it (Dettmers et al. 2023, section 3): NormalFloat, its scales quantised again.
The adapter, the norms, the embedding and the projection stay as they are."""

import importlib.util

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lib.errors import InputError

INSTALL = "bitsandbytes==0.50.2"


def four_bit_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """For `from_pretrained`; products are in `dtype`. Raises InputError without bitsandbytes, with what installs it."""
    if not importlib.util.find_spec("bitsandbytes"):
        raise InputError(f"4 bits: bitsandbytes is not installed; install it with `pip install {INSTALL}`")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def use_one_product(model: nn.Module) -> nn.Module:
    """Without a gradient bitsandbytes takes another product on processors with bf16, in bf16 whatever it is asked for,
    and packs the weights anew for it: log-probs of reference and policy would differ by more than training moves them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model
