"""Linear layers, LoRA layers and attention by oneDNN's products, and a cheaper dropout, in the place of PyTorch's and
PEFT's on a CPU."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lib.packed.dropout import SixteenBitDropout
from lib.packed.onednn import applies, linear, weight_gradient
from lib.packed.pack import causal_bounds

ATTENTION = "onednn"
# Causal attention takes its queries in blocks: 2/3 of the work in three, and a bound to the memory of long rows.
FEWEST_BLOCKS, LONGEST_BLOCK = 3, 512


def use_onednn(model: nn.Module) -> nn.Module:
    """Make the layers of `model` (a Hugging Face model, PEFT's wrapper of one, or any module) take oneDNN's products
    and the cheaper dropout on a CPU, in place. Names, weights and gradients stay. An exporter knows nothing of these
    layers: it has to be given the model as it was."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = OneDnnLora
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
        elif type(module) is nn.Dropout:
            module.__class__ = SixteenBitDropout
    causal_lm = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(getattr(causal_lm, "config", None), "_attn_implementation", None) == "sdpa":
        causal_lm.set_attn_implementation(ATTENTION)
    return model


class OneDnnLinear(nn.Linear):
    """A linear layer whose fp32 products are oneDNN's on a CPU, and its gradients with them."""

    def forward(self, states: Tensor) -> Tensor:
        return _Linear.apply(states, self.weight, self.bias) if applies(states) else super().forward(states)


class OneDnnLora(lora.Linear):
    """A linear layer with one LoRA adapter; the adapter's product is added where the base layer's lies."""

    def _cast_input_dtype(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        # Under autocast the adapter's products are in its type whatever comes in. PEFT's cast to fp32 would be cast
        # back, and be a fifth of what a layer keeps for the backward pass.
        return states if torch.is_autocast_enabled(states.device.type) else super()._cast_input_dtype(states, dtype)

    def forward(self, states: Tensor, *args, **kwargs) -> Tensor:
        if not applies(states):
            return super().forward(states, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.lora_A]
        plain = len(active) == 1 and active[0] not in self.lora_variant and self.lora_B[active[0]].bias is None
        plain = plain and not any(parameter.requires_grad for parameter in self.base_layer.parameters())
        if not plain or self.disable_adapters or self.merged or args or kwargs:
            return super().forward(states, *args, **kwargs)
        [name] = active
        hidden = self.lora_A[name](self.lora_dropout[name](states)) * self.scaling[name]
        base = self.base_layer
        return _LoraLinear.apply(states, base.weight, base.bias, hidden, self.lora_B[name].weight)


def onednn_attention(
    module: nn.Module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=True, **others
) -> tuple[Tensor, Tensor | None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, M, D] as [B, L, heads, D], fp32 on a CPU
    under an additive mask [B, 1, L, M]; PyTorch's own for everything else. `is_causal` says of such a mask with L = M
    that it lets no row see a later one, as the packed pass's does: what it hides is not computed then."""
    additive = attention_mask is not None and attention_mask.dtype == torch.float32
    if not (applies(query) and additive and dropout == 0.0):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = is_causal and query.shape[2] == key.shape[2]
    return _Attention.apply(query * scale, key, value, attention_mask, causal).transpose(1, 2), None


AttentionInterface.register(ATTENTION, onednn_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _Linear(torch.autograd.Function):
    """`linear` with the gradient of whatever asks for one."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states if ctx.needs_input_grad[1] else None, weight)
        return linear(states, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if of_states else None,
            weight_gradient(gradient, states) if of_weight else None,
            gradient.flatten(0, -2).sum(0) if of_bias else None,
        )


class _LoraLinear(torch.autograd.Function):
    """states @ weight.T + bias + hidden @ lora_b.T, hidden [..., r]; weight and bias are frozen."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, lora_b: Tensor) -> Tensor:
        ctx.save_for_backward(weight, hidden, lora_b)
        output = linear(states, weight, bias)
        output.view(-1, len(weight)).addmm_(hidden.flatten(0, -2), lora_b.t())
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, hidden, lora_b = ctx.saved_tensors
        of_states = linear(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return of_states, None, None, linear(gradient, lora_b.t()), weight_gradient(gradient, hidden)


class _Attention(torch.autograd.Function):
    """Queries that share a key head are rows of one product. Backward computes the probabilities anew: kept, they
    would be heads * L * M numbers a layer."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, causal: bool) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        ctx.save_for_backward(query, key, value, mask)
        ctx.causal = causal
        mixed = query.new_empty(*query.shape[:3], value.shape[3])
        for mine, theirs, shown in _blocks(query, key, causal):
            probabilities = _probabilities(query[mine], key[theirs], mask[shown])
            mixed[mine] = linear(probabilities, value[theirs].t()).view_as(mixed[mine])
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for mine, theirs, shown in _blocks(query, key, ctx.causal):
            upstream = gradient[mine].flatten(0, 1)  # (G * l, D)
            probabilities = _probabilities(query[mine], key[theirs], mask[shown])  # (G * l, m)
            of_value[theirs] += weight_gradient(probabilities, upstream)
            of_scores = linear(upstream, value[theirs])
            of_scores = torch._softmax_backward_data(of_scores, probabilities, -1, torch.float32)
            of_query[mine] = linear(of_scores, key[theirs].t()).view_as(query[mine])
            of_key[theirs] += weight_gradient(of_scores, query[mine].flatten(0, 1))
        return of_query, of_key, of_value, None, None


def _blocks(query: Tensor, key: Tensor, causal: bool) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Indices of a block of queries [G, l, D] that share a key head, of the keys [m, D] that it may see, and of its
    part of the mask [1, l, m]. A causal block sees no key after its own end."""
    length, group = query.shape[2], query.shape[1] // key.shape[1]
    bounds = causal_bounds(length, max(FEWEST_BLOCKS, length // LONGEST_BLOCK)) if causal else [0, length]
    for row in range(key.shape[0]):
        for head in range(key.shape[1]):
            for begin, end in pairwise(bounds):
                heads, queries = slice(head * group, (head + 1) * group), slice(begin, end)
                keys = slice(end) if causal else slice(None)
                if begin < end:
                    yield (row, heads, queries), (row, head, keys), (row, slice(None), queries, keys)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the keys [m, D] of scaled queries [G, l, D] under mask [1, l, m]: [G * l, m]."""
    return linear(query, key).add_(mask).softmax(-1).flatten(0, 1)
