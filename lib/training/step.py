"""What a training step is made of: its batches, its backward pass, and the sums behind its line in `metrics.jsonl`."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lib.errors import InputError
from lib.packed.pack import PackedBatch, pack
from lib.training.losses import Objective, best_candidate, sft, take
from lib.training.negatives import TrainingQuestion, draw_candidates
from lib.training.recipe import Recipe


@dataclass(frozen=True)
class GlobalBatch:
    """The questions of one optimizer step, over all processes."""

    questions: Sequence[TrainingQuestion]
    step: int
    epoch: int


@dataclass(frozen=True)
class TrainingBatch:
    """Questions with their drawn candidates. reference [B, K] fp32, or None where the objective needs none; rewards
    [B, K] and the mean reward of the whole question [B] in fp64; mask [B, K] bool; weight [B] is 1, or 0 for a
    stand-in that only keeps the processes in step."""

    packed: PackedBatch
    reference: Tensor | None
    rewards: Tensor
    mean: Tensor
    mask: Tensor
    weight: Tensor
    ids: list[str]


def micro_batches(questions: Sequence, batch_size: int, rank: int, world: int) -> list[list]:
    """This process's share of one step's questions, in batches: every process gets as many batches, the last ones
    possibly empty. Put together over the processes they are all the questions, whatever `world` is."""
    stride = batch_size * world
    return [
        list(questions[start + rank * batch_size : start + (rank + 1) * batch_size])
        for start in range(0, len(questions), stride)
    ]


def training_batch(
    questions: Sequence[TrainingQuestion], recipe: Recipe, epoch: int, device, *, weight: float
) -> TrainingBatch:
    """Draw the candidates of each question by `recipe` and pack them."""
    drawn = [draw_candidates(item, recipe.sampling, epoch) for item in questions]

    def columns(values, dtype: torch.dtype) -> Tensor:
        rows = [[row[index] for index in chosen] for row, chosen in zip(values, drawn, strict=True)]
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True).to(device)

    rewards = columns([item.encoded.question.rewards for item in questions], torch.float64)
    counts = torch.tensor([len(chosen) for chosen in drawn], device=device)
    reference = None
    if recipe.objective.reference:
        reference = columns([item.reference for item in questions], torch.float32)
    return TrainingBatch(
        packed=pack([item.encoded for item in questions], drawn).to(device),
        reference=reference,
        rewards=rewards,
        mean=torch.tensor([item.mean for item in questions], dtype=torch.float64, device=device),
        mask=torch.arange(rewards.shape[1], device=device) < counts[:, None],
        weight=torch.full((len(questions),), weight, device=device),
        ids=[item.encoded.question.id for item in questions],
    )


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


def backward(
    scorer: nn.Module, global_batch: GlobalBatch, batch_size: int, recipe: Recipe, accelerator: Accelerator
) -> Tensor:
    """Forward and backward for this process's share of one step's questions, `batch_size` at a time; returns their
    `step_sums`. Raises InputError where a loss is not finite.

    Each question weighs the same, however the global batch is cut into batches and processes.
    """
    questions = global_batch.questions
    batches = micro_batches(questions, batch_size, accelerator.process_index, accelerator.num_processes)
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=accelerator.device)
    for number, own in enumerate(batches, start=1):
        # An empty share takes a stand-in of weight 0, since every process has to join in every backward pass.
        weight = float(bool(own))
        batch = training_batch(own or questions[:1], recipe, global_batch.epoch, accelerator.device, weight=weight)
        with nullcontext() if number == len(batches) else accelerator.no_sync(scorer):
            logprobs = scorer(batch.packed)  # (B, K)
            losses, scores = question_losses(recipe, logprobs, batch)  # (B,), (B, K)
            if not torch.isfinite(losses).all():
                raise not_finite(global_batch.step, "loss", batch.ids)
            # The processes' gradients are averaged, hence their number.
            accelerator.backward((losses * batch.weight).sum() * accelerator.num_processes / len(questions))
        sums += step_sums(batch, losses, scores, logprobs)
    return sums


def not_finite(step: int, what: str, ids: Iterable[str]) -> InputError:
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


def step_means(sums: Tensor, objective: Objective, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """The step's means from `step_sums`, as far as the objective defines them, and its speed over `seconds`.

    Implicit rewards, their accuracy and the margin between chosen and rejected need a reference; without one the
    accuracy is that of the log-probs. Where no negative is drawn there is neither rejected nor accuracy.
    """
    totals = dict(zip(SUMS, sums.tolist(), strict=True))
    mean = {name: total / totals["questions"] for name, total in totals.items()}
    means = {"loss": mean["loss"], "logprob_chosen": mean["logprob_chosen"]}
    if objective.num_negatives != 0:
        means["logprob_rejected"] = mean["logprob_rejected"]
        kind = "reward" if objective.reference else "logprob"
        means[f"{kind}_accuracy"] = mean["score_accuracy"]
        if objective.reference:
            means |= {"reward_chosen": mean["score_chosen"], "reward_rejected": mean["score_rejected"]}
            means["margin"] = mean["score_chosen"] - mean["score_rejected"]
    return means, {f"{name}_per_second": totals[name] / seconds for name in ("questions", "tokens")}
