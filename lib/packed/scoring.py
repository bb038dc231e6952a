"""The packed pass, part two: one forward of the decoder, then log-probs of the scored rows alone."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib.packed.onednn import linear
from lib.packed.pack import PackedBatch, attention_mask, gather_rows
from lib.packed.scored_rows import can_narrow, last_layer_narrowed

PROJECTION_SLICE = 4096  # of the vocabulary of a frozen projection at once: 16 kB of fp32 logits a row
CHUNK_ROWS = 128  # of a trained one at once: 78 MB of fp32 logits with 151,936 tokens


class PackedScorer(nn.Module):
    """Scores every candidate of every packed question in one pass.

    model: a Hugging Face causal LM, bare or wrapped by PEFT, that takes a 4-D additive attention mask.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def causal_lm(self) -> nn.Module:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(self, batch: PackedBatch) -> Tensor:
        """Log-probs [B, K] in fp32: the sum over a candidate's tokens; 0 for candidates a question lacks."""
        return sum_by_candidate(self.token_logprobs(batch), batch.cand_index, batch.num_candidates)

    def token_logprobs(self, batch: PackedBatch) -> Tensor:
        """log p(target | prompt, earlier tokens of its candidate) [B, N] in fp32, 0 on padding."""
        head = self.causal_lm.get_output_embeddings()
        scored = project_logprobs(self.scored_states(batch), batch.target_ids.flatten().clamp(min=0), head)
        return scored.view_as(batch.pred_index).masked_fill(batch.cand_index < 0, 0.0)

    def scored_states(self, batch: PackedBatch) -> Tensor:
        """Last hidden states [B * N, H] of the scored rows; only these reach the vocabulary."""
        narrow = can_narrow(self.causal_lm)
        mask = attention_mask(batch.segment_ids, self.causal_lm.dtype)
        with last_layer_narrowed(self.causal_lm, batch.pred_index) if narrow else nullcontext():
            hidden = self.causal_lm.base_model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
        return hidden.flatten(0, 1) if narrow else gather_rows(hidden, batch.pred_index)


def project_logprobs(rows: Tensor, target_ids: Tensor, head: nn.Module) -> Tensor:
    """Log-probs [M] in fp32 of target_ids [M] under head(rows [M, H]); [M, vocabulary] logits never exist at once."""
    plain = isinstance(head, nn.Linear) and head.bias is None  # with an adapter of its own it is another module
    if plain and not (torch.is_grad_enabled() and head.weight.requires_grad):
        return _FrozenProjection.apply(rows, target_ids, head.weight)
    chunks = []
    for chunk, targets in zip(rows.split(CHUNK_ROWS), target_ids.split(CHUNK_ROWS), strict=True):
        # Kept for the backward pass, the logits would be most of the memory.
        chunks.append(checkpoint(_chunk_logprobs, chunk, targets, head, use_reentrant=False))
    return torch.cat(chunks)


def _chunk_logprobs(rows: Tensor, target_ids: Tensor, head: nn.Module) -> Tensor:
    return -F.cross_entropy(head(rows).float(), target_ids, reduction="none")


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
        for part in weight.split(PROJECTION_SLICE):
            logits = linear(rows, part).float()
            here = (index >= 0) & (index < len(part))
            of_target = logits.gather(1, index.clamp(0, len(part) - 1)).where(here, of_target)
            index -= len(part)
            risen = torch.maximum(highest, logits.amax(1, keepdim=True))
            shrink, highest = (highest - risen).exp(), risen
            exponentials = logits.sub_(risen).exp_()
            normaliser.mul_(shrink).add_(exponentials.sum(1, keepdim=True))
            if mean is not None:  # of the weight's rows
                mean.mul_(shrink).add_(linear(exponentials.to(part.dtype), part.t()))
        if mean is not None:
            ctx.save_for_backward((weight[target_ids] - mean.div_(normaliser)).to(rows.dtype))
        return (of_target - highest - normaliser.log()).squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        [of_rows] = ctx.saved_tensors
        return gradient[:, None].to(of_rows.dtype) * of_rows, None, None


def sum_by_candidate(token_logprobs: Tensor, cand_index: Tensor, num_candidates: int) -> Tensor:
    """Sum token log-probs [B, N] over candidates: [B, K]. Padding (cand_index -1) counts nowhere."""
    candidates = torch.arange(num_candidates, device=cand_index.device)
    member = cand_index[:, None, :] == candidates[None, :, None]  # (B, K, N)
    return (token_logprobs[:, None, :] * member).sum(-1)
