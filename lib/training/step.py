"""What a training step is made of: its backward pass, and the sums behind its line in `metrics.jsonl`."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lib.errors import InputError
from lib.training.batches import GlobalBatch, TrainingBatch, micro_batches, training_batch
from lib.training.losses import Objective, best_candidate, sft, take
from lib.training.recipe import Recipe


def question_losses(recipe: Recipe, logprobs: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """The loss of each question [B], and the scores [B, K] that it was made of: beta * log-ratios, or `logprobs`
    [B, K] themselves where the objective needs no reference."""
    objective, options = recipe.objective, recipe.options
    scores = options.beta * (logprobs - batch.reference) if objective.reference else logprobs
    known = batch.mask, batch.rewards, batch.mean, options
    losses = objective.loss(scores, *known)
    if options.sft_weight:
        losses = losses + options.sft_weight * sft(logprobs, *known)
    return losses, scores


# What is summed over questions; the three "score" columns are of implicit rewards, or of log-probs without a reference.
SUMS = (
    "questions",
    "loss",
    "score_chosen",
    "score_rejected",
    "score_accuracy",
    "logprob_chosen",
    "logprob_rejected",
    "tokens",
)


@dataclass(frozen=True)
class StepSums:
    """What this process adds to a step, still on the device: reading it waits for all that was launched. totals
    [len(SUMS)] in fp64: its `step_sums`. finite: of each batch, whether the loss of each question is, [B] bool, with
    the questions' ids."""

    totals: Tensor
    finite: list[tuple[Tensor, list[str]]]


def backward(
    scorer: nn.Module, global_batch: GlobalBatch, batch_size: int, recipe: Recipe, accelerator: Accelerator
) -> StepSums:
    """Forward and backward for this process's share of one step's questions, `batch_size` at a time.

    Each question weighs the same, however the global batch is cut into batches and processes.
    """
    questions = global_batch.questions
    batches = micro_batches(questions, batch_size, accelerator.process_index, accelerator.num_processes)
    totals, finite = torch.zeros(len(SUMS), dtype=torch.float64, device=accelerator.device), []
    for number, own in enumerate(batches, start=1):
        # An empty share takes a stand-in of weight 0, since every process has to join in every backward pass.
        weight = float(bool(own))
        batch = training_batch(own or questions[:1], recipe, global_batch.epoch, accelerator.device, weight=weight)
        with nullcontext() if number == len(batches) else accelerator.no_sync(scorer):
            logprobs = scorer(batch.packed)  # (B, K)
            losses, scores = question_losses(recipe, logprobs, batch)  # (B,), (B, K)
            # The processes' gradients are averaged, hence their number.
            accelerator.backward((losses * batch.weight).sum() * accelerator.num_processes / len(questions))
        totals += step_sums(batch, losses, scores, logprobs)
        finite.append((torch.isfinite(losses.detach()), batch.ids))
    return StepSums(totals, finite)


def read_step(
    sums: StepSums, grad_norm: Tensor, interrupted: bool, global_batch: GlobalBatch, accelerator: Accelerator
) -> dict[str, float]:
    """`SUMS` over all processes by name, "grad_norm", and "interrupted": how many processes are. They are read from the
    device at once, the only time in a step that the CPU waits for it.

    Raises InputError where a loss or the gradient is not finite. The optimizer may have taken its step by then: weights
    that are spoilt are saved nowhere.
    """
    flag = torch.full((1,), float(interrupted), dtype=torch.float64, device=accelerator.device)
    totals = accelerator.reduce(torch.cat([sums.totals, flag]))
    read = torch.cat([totals, grad_norm.detach().double().reshape(1)]).tolist()
    values = dict(zip((*SUMS, "interrupted", "grad_norm"), read, strict=True))
    if not math.isfinite(values["loss"]):
        ids = [name for finite, ids in sums.finite for name, good in zip(ids, finite.tolist(), strict=True) if not good]
        raise _not_finite(global_batch.step, "loss", ids or ["of another process"])
    if not math.isfinite(values["grad_norm"]):
        raise _not_finite(global_batch.step, "gradient", [item.encoded.question.id for item in global_batch.questions])
    return values


def _not_finite(step: int, what: str, ids: Sequence[str]) -> InputError:
    named = ", ".join(ids)
    return InputError(f"step {step}: the {what} is not finite on questions {named}; lower --learning-rate or --beta")


def step_sums(batch: TrainingBatch, losses: Tensor, scores: Tensor, logprobs: Tensor) -> Tensor:
    """Sums [len(SUMS)] in fp64 over the questions of a batch: they add up over batches and processes alike.

    losses [B]; scores and logprobs [B, K]. Chosen is the best candidate, rejected the mean over the drawn negatives; a
    question counts as accurate where some positive scores above every negative.
    """
    positive = batch.mask & (batch.rewards > batch.mean[:, None])
    negative = batch.mask & ~positive
    best = best_candidate(batch.mask, batch.rewards)

    def rejected(values: Tensor) -> Tensor:
        return values.masked_fill(~negative, 0.0).sum(1) / negative.sum(1).clamp(min=1)

    highest = (scores.masked_fill(~group, -torch.inf).amax(1) for group in (positive, negative))
    accurate = torch.gt(*highest)
    tokens = (batch.packed.segment_ids >= 0).sum(1)
    rows = [torch.ones_like(losses), losses, take(scores, best), rejected(scores), accurate]
    rows += [take(logprobs, best), rejected(logprobs), tokens]
    return torch.stack([(row.detach().double() * batch.weight).sum() for row in rows])


def step_means(
    totals: Mapping[str, float], objective: Objective, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """The step's means from its `SUMS`, as far as the objective defines them, and its speed over `seconds`.

    Implicit rewards, their accuracy and the margin between chosen and rejected need a reference; without one the
    accuracy is that of the log-probs. Where no negative is drawn there is neither rejected nor accuracy.
    """
    mean = {name: totals[name] / totals["questions"] for name in SUMS}
    means = {"loss": mean["loss"], "logprob_chosen": mean["logprob_chosen"]}
    if objective.num_negatives != 0:
        means["logprob_rejected"] = mean["logprob_rejected"]
        kind = "reward" if objective.reference else "logprob"
        means[f"{kind}_accuracy"] = mean["score_accuracy"]
        if objective.reference:
            means |= {"reward_chosen": mean["score_chosen"], "reward_rejected": mean["score_rejected"]}
            means["margin"] = mean["score_chosen"] - mean["score_rejected"]
    return means, {f"{name}_per_second": totals[name] / seconds for name in ("questions", "tokens")}
