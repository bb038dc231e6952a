"""The attention layers of rotary families with the embedding in one pass over memory, where kernels.py suits."""

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import rotate_half

from lib.packed import kernels
from lib.packed.attention import ATTENTION

# Of transformers: attention whose queries and keys are turned in all their width, and normed a head or not at all.
FAMILIES = tuple(f"{family}Attention" for family in ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma3"))


class OnePassAttention:
    """Stands before a class of `FAMILIES`."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **others):
        known = {"position_embeddings": position_embeddings, "attention_mask": attention_mask}
        cached = past_key_values is not None
        if cached or self.config._attn_implementation != ATTENTION or not kernels.suits(hidden_states):
            return super().forward(hidden_states, **known, past_key_values=past_key_values, **others)
        query = turned_heads(self, "q", hidden_states, *position_embeddings)
        key = turned_heads(self, "k", hidden_states, *position_embeddings)
        value = self.v_proj(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        dropout = self.attention_dropout if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS[ATTENTION]
        mixed, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout)
        return self.o_proj(mixed.flatten(2)), weights


def turned_heads(attention: nn.Module, kind: str, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (`kind` "q" or "k") [B, heads, L, D] of states [B, L, H], turned by the tables [B, L, D]."""
    split = getattr(attention, f"{kind}_proj")(states).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{kind}_norm", None)  # qwen3 and gemma3 have them
    split = norm(split) if norm else split
    if isinstance(attention, OnePassAttention) and kernels.suits(split, cos, sin):
        return _Rotate.apply(split, cos, sin)
    heads = split.transpose(1, 2)
    return heads * cos[:, None] + rotate_half(heads) * sin[:, None]


class _Rotate(torch.autograd.Function):
    """Its gradient is the rotation by the opposite angles."""

    @staticmethod
    def forward(ctx, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, heads, width = states.shape
        cos, sin = (table.expand(batch, length, width).contiguous() for table in (cos, sin))
        ctx.save_for_backward(cos, sin)
        out = states.new_empty(batch, heads, length, width)
        kernels.run("rotate", states.contiguous(), cos, sin, out, batch, length, heads, width, 0)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        batch, heads, length, width = gradient.shape
        out = gradient.new_empty(batch, length, heads, width)
        kernels.run("rotate", gradient.contiguous(), cos, sin, out, batch, length, heads, width, 1)
        return out, None, None
