"""Attention as one operator for the tracer, which the exporter makes ONNX's own Attention operators of."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from onnxscript import opset23 as op
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "grouped_attention"
BLOCKS = 4  # of queries; also the fewest tokens that a row may have


def grouped_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=True, **_
) -> tuple[Tensor, None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, M, D] as [B, L, heads, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = torch.ops.packed.attention(query, key, value, attention_mask, scale, is_causal)
    return mixed.transpose(1, 2), None


AttentionInterface.register(ATTENTION, grouped_attention)


@torch.library.custom_op("packed::attention", mutates_args=())
def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, causal: bool) -> Tensor:
    """Attention [B, heads, L, D] under an additive mask [B, 1, L, M]. `causal` says that L = M and no row sees a later
    one. Traced block by block it would take half of the export's time, most of it to reason about the bounds."""
    shared = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=shared)


@attention.register_fake
def _(query, key, value, mask, scale, causal):
    return query.new_empty(*query.shape[:3], value.shape[3])


def onnx_attention(query, key, value, mask, scale: float, causal: bool):
    """The same in ONNX, whose operator repeats no keys and values and takes one head a thread, but computes what the
    mask hides. Where `causal`, a block of queries meets the keys up to its own end alone: that is 5/8 of the work."""
    if not causal:
        mixed, *_ = op.Attention(query, key, value, mask, scale=scale)  # the others are a cache's
        return mixed
    # Of the mask, which all layers share, so that they share the bounds too.
    length = op.Shape(mask, start=2, end=3)
    blocks = op.Constant(value_ints=[BLOCKS])
    bounds = [op.Div(op.Mul(length, op.Constant(value_ints=[index])), blocks) for index in range(BLOCKS + 1)]
    rows, columns = op.Constant(value_ints=[2]), op.Constant(value_ints=[3])
    blockwise = []
    for begin, end in pairwise(bounds):
        queries, seen, keys, values = op.Slice(query, begin, end, rows), op.Slice(mask, begin, end, rows), key, value
        if end is not bounds[-1]:
            seen = op.Slice(seen, bounds[0], end, columns)
            keys, values = op.Slice(key, bounds[0], end, rows), op.Slice(value, bounds[0], end, rows)
        mixed, *_ = op.Attention(queries, keys, values, seen, scale=scale)
        blockwise.append(mixed)
    return op.Concat(*blockwise, axis=2)


TRANSLATIONS = {torch.ops.packed.attention.default: onnx_attention}
