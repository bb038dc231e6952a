"""The last decoder layer for the scored rows alone: no other row of its output is ever read."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lib.packed.pack import gather_rows
from lib.packed.rotary import turned_heads

# Families whose decoder layers are made as `ScoredRows` takes them: norm, attention, norm, gated MLP, full rotary.
ROTARY_FAMILIES = ("llama", "qwen2", "qwen3")


class ScoredRows(nn.Module):
    """A decoder layer that takes [B, L, H] and gives [B, N, H]: keys and values of all rows, everything else of
    `pred_index` [B, N]. On CaseHOLD that is 143 of 379 rows."""

    def __init__(self, layer: nn.Module, pred_index: Tensor | None = None):
        super().__init__()
        self.layer = layer
        self.attention_type = getattr(layer, "attention_type", None)  # the decoder asks for it
        self.pred_index = pred_index

    def forward(self, hidden_states, attention_mask, position_embeddings, **_) -> Tensor:
        attention = self.layer.self_attn
        batch, length, _ = hidden_states.shape

        def rows_of(states: Tensor) -> Tensor:
            return gather_rows(states, self.pred_index).view(batch, self.pred_index.shape[1], states.shape[-1])

        cos, sin = (table.expand(batch, length, -1) for table in position_embeddings)
        normed = self.layer.input_layernorm(hidden_states)
        query = turned_heads(attention, "q", rows_of(normed), rows_of(cos), rows_of(sin))
        key = turned_heads(attention, "k", normed, cos, sin)
        value = attention.v_proj(normed).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
        mixed, _ = attend(
            attention,
            query,
            key,
            value,
            rows_of(attention_mask.squeeze(1)).unsqueeze(1),  # (B, 1, N, L)
            dropout=attention.attention_dropout if self.training else 0.0,
            scaling=attention.scaling,
            is_causal=False,  # of the mask alone: the rows stand in no order
        )
        hidden = rows_of(hidden_states) + attention.o_proj(mixed.flatten(2))
        return hidden + self.layer.mlp(self.layer.post_attention_layernorm(hidden))


def decoder_of(causal_lm: PreTrainedModel) -> nn.Module:
    """The model without its projection. Gemma 3 goes by another name than transformers looks for."""
    decoder = causal_lm.base_model
    return causal_lm.model if decoder is causal_lm else decoder


def can_narrow(model: PreTrainedModel) -> bool:
    """Whether `ScoredRows` can stand for the last layer of `model`. Eager attention is in no table of transformers:
    each family has a function of its own."""
    return model.config.model_type in ROTARY_FAMILIES and model.config._attn_implementation != "eager"


@contextmanager
def last_layer_narrowed(model: PreTrainedModel, pred_index: Tensor) -> Iterator[None]:
    """Within it, the decoder of `model` gives the hidden states of pred_index [B, N] alone. Afterwards layers and names
    of weights are what they were."""
    layers = decoder_of(model).layers
    last = layers[-1]
    layers[-1] = ScoredRows(last, pred_index).train(last.training)
    try:
        yield
    finally:
        layers[-1] = last
