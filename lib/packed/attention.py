"""Attention of the packed pass on a CPU in causal blocks, whose softmax takes one pass."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lib.packed import kernels
from lib.packed.onednn import applies, batched, linear, weight_gradient
from lib.packed.pack import causal_bounds

ATTENTION = "onednn"
# Causal attention takes its queries in blocks: 2/3 of the work in three, and a bound to the memory of long rows.
FEWEST_BLOCKS, LONGEST_BLOCK = 3, 512
EVEN = 32  # bounds of blocks are multiples of it, as bf16's products like them


def onednn_attention(
    module: nn.Module, query, key, value, attention_mask, scaling=None, dropout=0.0, is_causal=True, **others
) -> tuple[Tensor, Tensor | None]:
    """Attention of queries [B, heads, L, D] to keys and values [B, kv_heads, M, D] as [B, L, heads, D], on a CPU under
    an additive mask [B, 1, L, M] of their type; PyTorch's own for everything else. `is_causal` says of such a mask with
    L = M that it lets no row see a later one, as the packed pass's does: what it hides is not computed then."""
    additive = attention_mask is not None and attention_mask.dtype == query.dtype == value.dtype
    ours = applies(query) or (query.dtype == torch.bfloat16 and kernels.suits(query))
    if not (ours and additive and dropout == 0.0):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = is_causal and query.shape[2] == key.shape[2]
    return _Attention.apply(query, key, value, attention_mask, scale, causal), None


AttentionInterface.register(ATTENTION, onednn_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _Attention(torch.autograd.Function):
    """Queries that share a key head are rows of one product. Backward computes the probabilities anew: kept, they
    would be heads * L * M numbers a layer."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, causal: bool) -> Tensor:
        batch, heads, length, _ = query.shape
        # Of matrices that lie in strides oneDNN's fp32 products are a hundred times as slow.
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        mask = mask.expand(batch, 1, *mask.shape[2:])
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale, ctx.causal = scale, causal
        mixed = query.new_empty(batch, length, heads, value.shape[3])
        for mine, theirs, shown in _blocks(query, key, causal):
            keys, values = key[theirs], value[theirs]
            probabilities = _probabilities(_rows(query[mine], len(keys)), keys, mask[shown], scale)
            _put(mixed.transpose(1, 2)[mine], _product(probabilities, values.transpose(1, 2)))
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        gradient = gradient.transpose(1, 2).contiguous()
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for mine, theirs, shown in _blocks(query, key, ctx.causal):
            keys, values = key[theirs], value[theirs]
            queries, upstream = _rows(query[mine], len(keys)), _rows(gradient[mine], len(keys))
            probabilities = _probabilities(queries, keys, mask[shown], ctx.scale)
            of_value[theirs] += _transposed_product(probabilities, upstream)
            of_scores = _softmax_backward(_product(upstream, values), probabilities, ctx.scale)
            _put(of_query[mine], _product(of_scores, keys.transpose(1, 2)))
            of_key[theirs] += _transposed_product(of_scores, queries)
        return of_query, of_key, of_value, None, None, None


def _blocks(query: Tensor, key: Tensor, causal: bool) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Indices of a block of queries [heads, l, D], of the keys [kv_heads, m, D] that it may see, and of its part of the
    mask [l, m]. A causal block sees no key after its own end. Where products are `batched` a block has all heads, else
    those of one key head."""
    length, key_heads = query.shape[2], key.shape[1]
    group = query.shape[1] // key_heads
    blocks = max(FEWEST_BLOCKS, length // LONGEST_BLOCK) if causal else 1
    bounds = [EVEN * bound for bound in causal_bounds(length // EVEN, blocks)[:-1]] + [length]
    together = key_heads if batched(query.dtype) else 1
    for row in range(key.shape[0]):
        for head in range(0, key_heads, together):
            heads, theirs = slice(head * group, (head + together) * group), slice(head, head + together)
            for begin, end in pairwise(bounds):
                queries, keys = slice(begin, end), slice(end) if causal else slice(None)
                if begin < end:
                    yield (row, heads, queries), (row, theirs, keys), (row, 0, queries, keys)


def _rows(states: Tensor, key_heads: int) -> Tensor:
    """A block [heads, l, D] as rows of its key heads: [kv_heads, G * l, D]."""
    return states.reshape(key_heads, -1, states.shape[-1])


def _put(place: Tensor, values: Tensor) -> None:
    """`values` [kv_heads, G * l, D] into a block [heads, l, D]."""
    place.copy_(values.view(place.shape))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left [n, r, k] by right [n, c, k]: [n, r, c], each matrix by its own."""
    if batched(left.dtype):
        return torch.bmm(left, right.transpose(1, 2))
    [left], [right] = left, right  # one at a time, see `_blocks`
    return linear(left, right)[None]


def _transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """The transposes of left [n, k, r] by right [n, k, c]: [n, r, c]."""
    if batched(left.dtype):
        return torch.bmm(left.transpose(1, 2), right)
    [left], [right] = left, right
    return weight_gradient(left, right)[None]


def _probabilities(queries: Tensor, keys: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax over the keys [n, m, D] of queries [n, G * l, D] under mask [l, m]: [n, G * l, m]."""
    scores = _product(queries, keys)
    if kernels.suits(scores, mask) and mask.stride(1) == 1:
        sizes = (scores[..., 0].numel(), scores.shape[-1], len(mask), mask.stride(0))
        kernels.run("masked_softmax", scores, mask, *sizes, scale)
        return scores
    return scores.mul_(scale).unflatten(1, (-1, len(mask))).add_(mask).softmax(-1).flatten(1, 2)


def _softmax_backward(gradient: Tensor, probabilities: Tensor, scale: float) -> Tensor:
    """The gradient of the unscaled scores from that of the probabilities [n, r, m], which it overwrites."""
    if kernels.suits(gradient, probabilities):
        sizes = gradient[..., 0].numel(), gradient.shape[-1]
        kernels.run("softmax_backward", probabilities, gradient, *sizes, scale)
        return gradient
    return torch._softmax_backward_data(gradient, probabilities, -1, gradient.dtype).mul_(scale)
