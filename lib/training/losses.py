"""Objectives: pure functions of tensors, one number a question.

Every loss takes
    scores    [B, K]  beta * log-ratio (the implicit reward), or the log-prob where the objective needs no reference
    mask      [B, K]  True where the question has that candidate
    rewards   [B, K]  the data's rewards in fp64 (one-hot for labelled questions)
    mean      [B]     mean reward of the whole question in fp64, taken before any candidate was drawn
    options           what else a loss may ask
and returns the loss [B]. To add one: write the function, give it a line in `LOSSES`, test it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEGLIGIBLE = -1e9  # finite stand-in for log 0: its exponential is 0 and its gradient is never NaN


@dataclass(frozen=True)
class LossOptions:
    """beta: scale of the implicit reward. sft_weight: of the positive's cross-entropy, added to any loss.
    reward_temperature: of the targets of InfoNCA and NCA. weighting ("power" or "exp"), power and alpha: SWEPO's."""

    beta: float = 0.1
    sft_weight: float = 0.0
    reward_temperature: float = 1.0
    weighting: str = "power"
    power: int = 1
    alpha: float = 1.0


def sdpo(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """S-DPO, softmax over one positive and all drawn negatives (Yuxin Chen et al. 2024, "On Softmax Direct Preference
    Optimization for Recommendation"), its sigmoid and sum written as one logarithm:

        loss = log(1 + sum_d exp(s_d - s_p)),   s = beta * log-ratio, p = the candidate of highest reward

    which is the cross-entropy of softmax(s) with p as target. One negative makes it DPO; at step 0 it is ln(K + 1).
    """
    return torch.logsumexp(scores.masked_fill(~mask, NEGLIGIBLE), dim=1) - take(scores, best_candidate(mask, rewards))


def dpo(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """DPO (Rafailov et al. 2023, "Direct Preference Optimization", eq. 7) on the best candidate and one drawn negative:

        loss = -log sigmoid(s_p - s_d)

    that is, `dpo_best` where only one other candidate is drawn.
    """
    return dpo_best(scores, mask, rewards, mean, options)


def dpo_pairs(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """DPO over every pair of different rewards ("DPO x C(K, 2)" of Huayu Chen et al. 2024, "Noise Contrastive Alignment
    of Language Models with Explicit Rewards"), averaged over a question's pairs so that every question weighs the same:

        loss = mean over {(i, j): r_i > r_j} of -log sigmoid(s_i - s_j)
    """
    return _mean_over_pairs(scores, _pairs(mask, rewards))


def dpo_best(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """DPO of the best candidate p against each other ("DPO x (K - 1)" of Huayu Chen et al. 2024, as `dpo_pairs`):

    loss = mean over {j: r_p > r_j} of -log sigmoid(s_p - s_j)
    """
    best = F.one_hot(best_candidate(mask, rewards), scores.shape[1]).bool()
    return _mean_over_pairs(scores, _pairs(mask, rewards) & best[:, :, None])


def infonca(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """InfoNCA (Huayu Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit Rewards"):

        loss = -sum_k t_k log softmax(s)_k,   t = softmax(r / reward temperature)

    Towards temperature 0 the targets are one-hot and it is S-DPO.
    """
    logprobs = scores.masked_fill(~mask, NEGLIGIBLE).log_softmax(dim=1)
    return -(_targets(scores, mask, rewards, options) * logprobs).sum(1)


def nca(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """NCA (Huayu Chen et al. 2024, as `infonca`), which raises and lowers each candidate by itself:

    loss = -sum_k [t_k log sigmoid(s_k) + 1/K log sigmoid(-s_k)],   t as in `infonca`, K candidates
    """
    share = mask / mask.sum(1, keepdim=True)
    terms = _targets(scores, mask, rewards, options) * F.logsigmoid(scores) + share * F.logsigmoid(-scores)
    return -terms.masked_fill(~mask, 0.0).sum(1)


def swepo(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """SWEPO (Gupta et al. 2024, "Simultaneous Weighted Preference Optimization for Group Contrastive Alignment"):

        loss = -log(sum over positives e^z / sum over all e^z),   z = s + log w,   positive: r > mean
        w = |r - mean|^power   or   exp(alpha * |r - mean|)

    A weight of 0 leaves the sum. One positive and equal weights make it S-DPO.
    """
    weighted = (scores + log_weights(rewards, mean, options).to(scores)).masked_fill(~mask, NEGLIGIBLE)
    positive = mask & (rewards > mean[:, None])
    return torch.logsumexp(weighted, dim=1) - torch.logsumexp(weighted.masked_fill(~positive, NEGLIGIBLE), dim=1)


def listwise(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """Softmax cross-entropy over the candidates (ListNet's top-one loss with a one-hot target; Cao et al. 2007,
    "Learning to Rank: From Pairwise Approach to Listwise Approach"), on log-probs and without a reference:

        loss = log(sum_k p_k) - log p_best,   p_k = P(candidate k | prompt)

    It is S-DPO's formula on log-probs in place of implicit rewards.
    """
    return sdpo(scores, mask, rewards, mean, options)


def sft(scores: Tensor, mask: Tensor, rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """Cross-entropy of the best candidate, summed over its tokens, in nats: loss = -log P(best | prompt)."""
    return -take(scores, best_candidate(mask, rewards))


@dataclass(frozen=True)
class Objective:
    """A loss and what it asks for.

    all_positives: every positive is drawn, else the best candidate alone. num_negatives: how many are drawn whatever
    --num-neg says. reference: it scores by beta * log-ratio, else by log-prob. options: the flags that it reads.
    """

    loss: Callable[[Tensor, Tensor, Tensor, Tensor, LossOptions], Tensor]
    all_positives: bool = False
    num_negatives: int | None = None
    reference: bool = True
    options: tuple[str, ...] = ()


LOSSES = {
    "sdpo": Objective(sdpo),
    "dpo": Objective(dpo, num_negatives=1),
    "dpo-pairs": Objective(dpo_pairs, all_positives=True),
    "dpo-best": Objective(dpo_best, all_positives=True),
    "infonca": Objective(infonca, all_positives=True, options=("reward_temperature",)),
    "nca": Objective(nca, all_positives=True, options=("reward_temperature",)),
    "swepo": Objective(swepo, all_positives=True, options=("weighting", "power", "alpha", "swepo_groups")),
    "listwise": Objective(listwise, reference=False),
    "sft": Objective(sft, num_negatives=0, reference=False),
}


def best_candidate(mask: Tensor, rewards: Tensor) -> Tensor:
    """Index [B] of the candidate of highest reward; the first wins a tie."""
    return rewards.masked_fill(~mask, -torch.inf).argmax(dim=1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """values [B, K] at index [B]: [B]."""
    return values.gather(1, index[:, None]).squeeze(1)


def log_weights(rewards: Tensor, mean: Tensor, options: LossOptions) -> Tensor:
    """SWEPO's log w [B, K], `NEGLIGIBLE` for a weight of 0; 0^0 is 1."""
    deviation = (rewards - mean[:, None]).abs()
    if options.weighting == "exp":
        return options.alpha * deviation
    return torch.xlogy(options.power, deviation).clamp(min=NEGLIGIBLE)


def _targets(scores: Tensor, mask: Tensor, rewards: Tensor, options: LossOptions) -> Tensor:
    """softmax(rewards / temperature) [B, K] over the candidates that are there."""
    return (rewards.masked_fill(~mask, -torch.inf) / options.reward_temperature).softmax(dim=1).to(scores)


def _pairs(mask: Tensor, rewards: Tensor) -> Tensor:
    """[B, K, K]: True at (i, j) where both are there and i has the higher reward."""
    return (rewards[:, :, None] > rewards[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def _mean_over_pairs(scores: Tensor, pairs: Tensor) -> Tensor:
    """The mean over `pairs` of -log sigmoid(s_i - s_j), [B]; 0 where there is no pair."""
    losses = -F.logsigmoid(scores[:, :, None] - scores[:, None, :])
    return losses.masked_fill(~pairs, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
