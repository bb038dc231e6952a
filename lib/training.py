"""What a training step is made of: its batches, and the sums behind its line in `metrics.jsonl`."""

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib.losses import best_candidate
from lib.negatives import TrainingQuestion
from lib.pack import PackedBatch, pack


@dataclass(frozen=True)
class TrainingBatch:
    """Questions with their drawn candidates. reference, rewards [B, K] fp32, mask [B, K] bool; weight [B] is 1, or 0
    for a stand-in that only keeps the processes in step."""

    packed: PackedBatch
    reference: Tensor
    rewards: Tensor
    mask: Tensor
    weight: Tensor
    ids: list[str]


def micro_batches(window: Sequence[int], batch_size: int, rank: int, world: int) -> list[list[int]]:
    """This process's share of one step's questions, in batches: every process gets as many batches, the last ones
    possibly empty. Put together over the processes they are the window, whatever `world` is."""
    stride = batch_size * world
    return [
        list(window[start + rank * batch_size : start + (rank + 1) * batch_size])
        for start in range(0, len(window), stride)
    ]


def training_batch(
    questions: Sequence[TrainingQuestion],
    drawn: Sequence[list[int]],
    reference: Sequence[list[float]],
    device,
    *,
    weight: float,
) -> TrainingBatch:
    """Pack `questions` with their `drawn` candidates; `reference[b]` holds log-probs of all candidates of row b."""

    def columns(values) -> Tensor:
        rows = [torch.tensor([row[index] for index in chosen]) for row, chosen in zip(values, drawn, strict=True)]
        return pad_sequence(rows, batch_first=True)

    rewards = columns([item.encoded.question.rewards for item in questions])
    counts = torch.tensor([len(chosen) for chosen in drawn])
    return TrainingBatch(
        packed=pack([item.encoded for item in questions], drawn).to(device),
        reference=columns(reference).to(device),
        rewards=rewards.to(device),
        mask=(torch.arange(rewards.shape[1]) < counts[:, None]).to(device),
        weight=torch.full((len(questions),), weight, device=device),
        ids=[item.encoded.question.id for item in questions],
    )


SUMS = ("questions", "loss", "reward_chosen", "reward_rejected", "reward_accuracy", "logprob_chosen", "tokens")


def step_sums(batch: TrainingBatch, losses: Tensor, scaled: Tensor, logprobs: Tensor) -> Tensor:
    """Sums [len(SUMS)] in fp64 over the questions of a batch: they add up over batches and processes alike.

    losses [B]; scaled (implicit rewards) and logprobs [B, K]. A question's rejected reward is the mean over its drawn
    negatives; it counts as accurate where the positive's implicit reward is above all of theirs.
    """
    positive = best_candidate(batch.mask, batch.rewards)[:, None]
    negative = batch.mask.scatter(1, positive, False)
    chosen = scaled.gather(1, positive).squeeze(1)
    rejected = scaled.masked_fill(~negative, 0.0).sum(1) / negative.sum(1)
    accurate = chosen > scaled.masked_fill(~negative, -torch.inf).amax(1)
    chosen_logprob = logprobs.gather(1, positive).squeeze(1)
    tokens = (batch.packed.segment_ids >= 0).sum(1)
    rows = [torch.ones_like(losses), losses, chosen, rejected, accurate, chosen_logprob, tokens]
    return torch.stack([(row.detach().double() * batch.weight).sum() for row in rows])


def step_means(sums: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """The step's means from `step_sums`, with the margin between chosen and rejected, and the sums by name."""
    totals = dict(zip(SUMS, sums.tolist(), strict=True))
    names = ("loss", "reward_chosen", "reward_rejected", "reward_accuracy", "logprob_chosen")
    means = {name: totals[name] / totals["questions"] for name in names}
    return means | {"margin": means["reward_chosen"] - means["reward_rejected"]}, totals


def catch_interrupt() -> threading.Event:
    """An event that the first Ctrl-C sets, so that the step ends and is saved; the second one interrupts at once."""
    event = threading.Event()

    def handler(signum, frame):
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, handler)
    return event
