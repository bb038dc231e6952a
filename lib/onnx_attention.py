"""Attention in the form that the exporter makes ONNX's own Attention operator of."""

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "grouped_attention"


def grouped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_) -> tuple[Tensor, None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, M, D] as [B, L, heads, D].

    ONNX's operator repeats no keys and values and takes one head a thread.
    """
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return mixed.transpose(1, 2), None


AttentionInterface.register(ATTENTION, grouped_attention)
