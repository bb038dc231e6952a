"""The questions of a training step: shared out to processes, their candidates drawn and packed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib.packed.pack import TENSORS, PackedBatch, pack, to_device
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
    """Draw the candidates of each question by `recipe` and pack them; all of it reaches the device in one copy."""
    drawn = [draw_candidates(item, recipe.sampling, epoch) for item in questions]

    def columns(values, dtype: torch.dtype) -> Tensor:
        rows = [[row[index] for index in chosen] for row, chosen in zip(values, drawn, strict=True)]
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True)

    packed = pack([item.encoded for item in questions], drawn)
    rewards = columns([item.encoded.question.rewards for item in questions], torch.float64)
    mean = torch.tensor([item.mean for item in questions], dtype=torch.float64)
    mask = torch.arange(rewards.shape[1]) < torch.tensor([len(chosen) for chosen in drawn])[:, None]
    values = [rewards, mean, mask, torch.full((len(questions),), weight)]
    if recipe.objective.reference:
        values.append(columns([item.reference for item in questions], torch.float32))
    moved = to_device([*packed.tensors().values(), *values], device)
    rewards, mean, mask, weights, *reference = moved[len(TENSORS) :]
    return TrainingBatch(
        packed=PackedBatch(*moved[: len(TENSORS)], packed.num_candidates),
        reference=reference[0] if reference else None,
        rewards=rewards,
        mean=mean,
        mask=mask,
        weight=weights,
        ids=[item.encoded.question.id for item in questions],
    )
