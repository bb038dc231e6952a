"""The packed pass, part two: one forward of the decoder, then log-probs of the scored rows alone."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib.packed import kernels
from lib.packed.onednn import linear
from lib.packed.pack import PackedBatch, attention_mask, gather_rows
from lib.packed.scored_rows import can_narrow, decoder_of, last_layer_narrowed

# Of the vocabulary of a frozen projection at once: 16 kB of fp32 logits a row, which a CPU's cache holds for some rows.
PROJECTION_SLICE = 4096
GPU_LOGITS = 2**26  # at once on a GPU, which wants few large products: 256 MB in fp32
# Of a batch at once on a CPU, padding included: what the layers make of more leaves its cache.
PART_TOKENS = 512
# Of tokens of a part: oneDNN compiles its products anew for every length, which takes 0.1 s a length in bf16, and holds
# a thousand of them.
PART_MULTIPLE = 32
CHUNK_ROWS = 128  # of a trained one at once: 78 MB of fp32 logits with 151,936 tokens


class PackedScorer(nn.Module):
    """Scores every candidate of every packed question in one pass.

    model: a Hugging Face causal LM, bare or wrapped by PEFT, that takes a 4-D additive attention mask.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training  # a check that gives back what it found would else turn dropout on

    @property
    def causal_lm(self) -> nn.Module:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(self, batch: PackedBatch) -> Tensor:
        """Log-probs [B, K] in fp32: the sum over a candidate's tokens; 0 for candidates a question lacks."""
        return sum_by_candidate(self.token_logprobs(batch), batch.cand_index, batch.num_candidates)

    def token_logprobs(self, batch: PackedBatch) -> Tensor:
        """log p(target | prompt, earlier tokens of its candidate) [B, N] in fp32; on padding it means nothing."""
        if batch.input_ids.device.type != "cpu":
            return self._token_logprobs(batch)
        parts = batch.parts(PART_TOKENS, PART_MULTIPLE)
        width = batch.pred_index.shape[1]
        scored = [F.pad(part, (0, width - part.shape[1])) for part in (self._token_logprobs(own) for _, own in parts)]
        places = torch.tensor([place for places, _ in parts for place in places])
        return torch.cat(scored)[places.argsort()]

    def _token_logprobs(self, batch: PackedBatch) -> Tensor:
        head = self.causal_lm.get_output_embeddings()
        scored = project_logprobs(self.scored_states(batch), batch.target_ids.flatten().clamp(min=0), head)
        return scored.view_as(batch.pred_index)

    def scored_states(self, batch: PackedBatch) -> Tensor:
        """Last hidden states [B * N, H] of the scored rows; only these reach the vocabulary."""
        narrow = can_narrow(self.causal_lm)
        mask = attention_mask(batch.segment_ids, self.causal_lm.dtype)
        with last_layer_narrowed(self.causal_lm, batch.pred_index) if narrow else nullcontext():
            hidden = decoder_of(self.causal_lm)(
                input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
        return hidden.flatten(0, 1) if narrow else gather_rows(hidden, batch.pred_index)


def project_logprobs(rows: Tensor, target_ids: Tensor, head: nn.Module) -> Tensor:
    """Log-probs [M] in fp32 of target_ids [M] under head(rows [M, H]); [M, vocabulary] logits never exist at once.

    A product in bf16 rounds a logit of 20 by up to 1/16. In the normaliser that averages out, in the target's own logit
    it would not: that one is a product in fp32."""
    plain = isinstance(head, nn.Linear) and head.bias is None  # with an adapter of its own it is another module
    if plain and not (torch.is_grad_enabled() and head.weight.requires_grad):
        return _FrozenProjection.apply(rows, target_ids, head.weight)
    chunks = []
    for chunk, targets in zip(rows.split(CHUNK_ROWS), target_ids.split(CHUNK_ROWS), strict=True):
        # Kept for the backward pass, the logits would be most of the memory.
        chunks.append(checkpoint(_chunk_logprobs, chunk, targets, head, plain, use_reentrant=False))
    return torch.cat(chunks)


def _chunk_logprobs(rows: Tensor, target_ids: Tensor, head: nn.Module, plain: bool) -> Tensor:
    product = head(rows)
    logits, index = product.float(), target_ids[:, None]
    if plain and product.dtype != torch.float32:
        rounded = logits.gather(1, index)
        exact = _target_logits(rows.detach(), head.weight.detach()[target_ids])
        logits = logits.scatter(1, index, rounded + (exact - rounded).detach())  # the gradient is the product's
    return -F.cross_entropy(logits, target_ids, reduction="none")


def _target_logits(rows: Tensor, target_rows: Tensor) -> Tensor:
    """Logits [M, 1] in fp32 of rows [M, H] and the projection's rows of their targets [M, H]."""
    return (rows.float() * target_rows.float()).sum(1, keepdim=True)


class _FrozenProjection(torch.autograd.Function):
    """Log-probs under a projection that is not trained, a slice of the vocabulary at a time: a running maximum and sum
    of exponentials make the log-sum-exp (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"), so
    that a slice's logits stay in cache and its weights are read once. A row's log-prob has the gradient
    weight[target] - softmax @ weight, which forward keeps [M, H]: logits are neither kept nor computed twice."""

    @staticmethod
    def forward(ctx, rows: Tensor, target_ids: Tensor, weight: Tensor) -> Tensor:
        highest = torch.full((len(rows), 1), -torch.inf, device=rows.device)
        normaliser, of_target = torch.zeros_like(highest), torch.zeros_like(highest)
        mean = rows.new_zeros(rows.shape, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        index = target_ids[:, None].clone()
        for part in weight.split(slice_tokens(len(rows), rows.device.type)):
            product = linear(rows, part)
            here = (index >= 0) & (index < len(part))
            of_target = product.gather(1, index.clamp(0, len(part) - 1)).float().where(here, of_target)
            index -= len(part)
            exponentials, shrink = _add_exponentials(product, highest, normaliser)
            if mean is not None:  # of the weight's rows
                mean.mul_(shrink).add_(linear(exponentials, part.t()))
        target_rows = weight[target_ids]
        if mean is not None:
            ctx.save_for_backward((target_rows - mean.div_(normaliser)).to(rows.dtype))
        if rows.dtype != torch.float32:  # in both places: a log-prob stays at 0 or below, and exact near it
            others = (normaliser - (of_target - highest).exp()).clamp(min=0)
            of_target = _target_logits(rows, target_rows)
            normaliser = others + (of_target - highest).exp()
        return (of_target - highest - normaliser.log()).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        [of_rows] = ctx.saved_tensors
        return gradient[:, None].to(of_rows.dtype) * of_rows, None, None


def _add_exponentials(logits: Tensor, highest: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - highest) [M, S], which may take the place of the logits, and by how much what was summed before
    shrinks [M, 1]. Of all logits so far, highest [M, 1] becomes the maximum and normaliser [M, 1] the sum."""
    if kernels.suits(logits):
        shrink = torch.empty_like(highest)
        kernels.run("add_exponentials", logits, highest, normaliser, shrink, *logits.shape)
        return logits, shrink
    risen = torch.maximum(highest, logits.amax(1, keepdim=True).float())
    shrink = (highest - risen).exp()
    exponentials = (logits.float() - risen).exp_()
    highest.copy_(risen)
    normaliser.mul_(shrink).add_(exponentials.sum(1, keepdim=True))
    return exponentials.to(logits.dtype), shrink


def slice_tokens(num_rows: int, device_type: str) -> int:
    """Tokens of the vocabulary that a frozen projection takes at once."""
    return PROJECTION_SLICE if device_type == "cpu" else max(PROJECTION_SLICE, GPU_LOGITS // max(1, num_rows))


def sum_by_candidate(token_logprobs: Tensor, cand_index: Tensor, num_candidates: int) -> Tensor:
    """Sum token log-probs [B, N] over candidates: [B, K]. Padding (cand_index -1) counts nowhere."""
    sums = token_logprobs.new_zeros(token_logprobs.shape[0], num_candidates)
    return sums.scatter_add(1, cand_index.clamp(min=0), token_logprobs.masked_fill(cand_index < 0, 0.0))
