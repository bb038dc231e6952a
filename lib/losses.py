"""Preference objectives: pure functions of tensors, one number a question.

Every loss takes
    scaled    [B, K]  implicit rewards, beta * (log-prob under the policy - log-prob under the reference)
    mask      [B, K]  True where the question has that candidate
    rewards   [B, K]  the data's rewards (one-hot for labelled questions)
and returns the loss [B]. To add one: write the function, give it a line in `LOSSES`, test it.
"""

import torch
from torch import Tensor

NEGLIGIBLE = -1e9  # finite stand-in for log 0: its exponential is 0 and its gradient is never NaN


def sdpo(scaled: Tensor, mask: Tensor, rewards: Tensor) -> Tensor:
    """S-DPO, softmax over one positive and all drawn negatives (Chen et al. 2024, "On Softmax Direct Preference
    Optimization for Recommendation"), its sigmoid and sum written as one logarithm:

        loss = log(1 + sum_d exp(beta * (D_d - D_p))),   D = log-ratio, p = the candidate of highest reward

    which is the cross-entropy of softmax(beta * D) with p as target. One negative makes it DPO; at step 0 it is
    ln(K + 1).
    """
    positive = best_candidate(mask, rewards)
    logits = scaled.masked_fill(~mask, NEGLIGIBLE)
    return torch.logsumexp(logits, dim=1) - logits.gather(1, positive[:, None]).squeeze(1)


def best_candidate(mask: Tensor, rewards: Tensor) -> Tensor:
    """Index [B] of the candidate of highest reward; the first wins a tie."""
    return rewards.masked_fill(~mask, -torch.inf).argmax(dim=1)


LOSSES = {"sdpo": sdpo}
