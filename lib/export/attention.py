"""Attention in the form that the exporter makes ONNX's own Attention operator of."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from lib.packed.pack import causal_bounds

ATTENTION = "grouped_attention"
BLOCKS = 4  # of queries; also the fewest tokens that a row may have


def grouped_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=True, **_
) -> tuple[Tensor, None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, M, D] as [B, L, heads, D].

    ONNX's operator repeats no keys and values and takes one head a thread, but computes what the mask hides. Where
    `is_causal` (L = M, no row sees a later one), a block of queries meets the keys up to its own end alone: that is
    5/8 of the work.
    """
    length = query.shape[2]
    bounds = causal_bounds(length, BLOCKS) if is_causal else [0, length]
    mixed = []
    for begin, end in pairwise(bounds):
        seen = end if is_causal else key.shape[2]
        mixed.append(
            F.scaled_dot_product_attention(
                query[:, :, begin:end],
                key[:, :, :seen],
                value[:, :, :seen],
                attn_mask=attention_mask[:, :, begin:end, :seen],
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return torch.cat(mixed, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, grouped_attention)
