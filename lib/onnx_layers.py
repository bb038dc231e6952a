"""The packed pass for a runtime on a CPU: attention as one operator, and a last layer of the scored rows alone."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lib.scoring import gather_rows

ATTENTION = "grouped_attention"
# Families whose decoder layers are made as `ScoredRows` takes them: norm, attention, norm, gated MLP, full rotary.
ROTARY_FAMILIES = ("llama", "qwen2", "qwen3")


def grouped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_) -> tuple[Tensor, None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, L, D] as [B, L, heads, D].

    The exporter makes it ONNX's own Attention operator, which repeats no keys and values and takes one head a thread.
    """
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return mixed.transpose(1, 2), None


class ScoredRows(nn.Module):
    """The last decoder layer for the scored rows alone: keys and values of all rows, everything else of
    `pred_index` [B, N]. Takes [B, L, H], gives [B, N, H]. On CaseHOLD that is 143 of 379 rows."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.attention_type = getattr(layer, "attention_type", None)  # the decoder asks for it
        self.pred_index: Tensor | None = None

    def forward(self, hidden_states, attention_mask, position_embeddings, **_) -> Tensor:
        attention = self.layer.self_attn
        batch, length, width = hidden_states.shape

        def rows_of(states: Tensor) -> Tensor:
            return gather_rows(states, self.pred_index).view(batch, self.pred_index.shape[1], states.shape[-1])

        def heads(projection: nn.Module, states: Tensor, norm: str) -> Tensor:
            split = projection(states).view(batch, states.shape[1], -1, attention.head_dim)
            return getattr(attention, norm, nn.Identity())(split).transpose(1, 2)

        cos, sin = (table.expand(batch, length, -1) for table in position_embeddings)
        normed = self.layer.input_layernorm(hidden_states)
        query = heads(attention.q_proj, rows_of(normed), "q_norm")
        key, value = heads(attention.k_proj, normed, "k_norm"), heads(attention.v_proj, normed, "")
        query = rotate(query, rows_of(cos), rows_of(sin))
        mask = rows_of(attention_mask.squeeze(1)).unsqueeze(1)  # (B, 1, N, L)
        mixed, _ = grouped_attention(attention, query, rotate(key, cos, sin), value, mask, attention.scaling)
        hidden = rows_of(hidden_states) + attention.o_proj(mixed.flatten(2))
        return hidden + self.layer.mlp(self.layer.post_attention_layernorm(hidden))


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [B, heads, L, D] by the tables [B, L, D]."""
    return apply_rotary_pos_emb(states, states, cos, sin)[0]


AttentionInterface.register(ATTENTION, grouped_attention)
