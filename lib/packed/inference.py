"""Scoring many questions: batches of like length and bounded tokens, over every process, in the order given."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from lib.errors import InputError
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.progress import progress
from lib.questions.prompt import EncodedQuestion

Logprobs = list[list[float]]  # one list a question, one number a candidate: sums over its tokens

# Of a batch, padding included; without gradients this stays far below the memory of a training step. A CPU gains
# nothing from more, a GPU waits for its launches with less.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16_384}


def start_accelerator(precision: str, tracker: str | None = None, folder: Path | None = None) -> Accelerator:
    """The device and the processes: GPUs where there are any, else the CPU (also under torchrun). tracker: the one of
    accelerate's that will be logged with, its files in `folder`.

    Raises InputError where they were launched to hold a part of the weights each.
    """
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name) == "true":  # the reference is the model behind the wrapper, and so are checkpoints
            raise InputError(f"{what} is not taken: every process holds the whole model; see --load-in-4bit")
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        # The schedule counts our steps; accelerate would advance it once for every process.
        step_scheduler_with_optimizer=False,
        log_with=tracker,
        project_dir=folder,
    )


def score_questions(
    scorer: PackedScorer,
    encoded: Sequence[EncodedQuestion],
    accelerator: Accelerator,
    *,
    description: str,
    batch_size: int | None = None,
    per_token: bool = False,
) -> list[list]:
    """Log-probs of every candidate of every question, in fp32: one list of K floats a question; with `per_token` one
    list of K lists of floats, one a token. `batch_size` bounds the questions of a batch, beside `BATCH_TOKENS`.

    Batches are dealt out to the processes. Raises InputError that names the question whose log-prob is not finite.
    """
    batches = like_length(encoded, BATCH_TOKENS[accelerator.device.type], batch_size or len(encoded))
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    scored: list[tuple[int, list]] = []
    was_training = scorer.training
    scorer.eval()
    with (
        torch.no_grad(),
        progress(total=len(encoded), desc=description, unit="question", disable=not accelerator.is_main_process) as bar,
    ):
        for indices in mine:
            questions = [encoded[index] for index in indices]
            batch = pack(questions).to(accelerator.device)
            logprobs = scorer(batch.by_token() if per_token else batch).float().cpu()
            for index, item, row in zip(indices, questions, logprobs, strict=True):
                own = _by_candidate(row, item) if per_token else row[: len(item.ending_ids)].tolist()
                values = share_equal(own, item.ending_ids)
                if not torch.isfinite(row).all():
                    raise InputError(
                        f"{item.question.source}: log-probs {values} are not finite; the weights are broken"
                    )
                scored.append((index, values))
            bar.update(min(len(indices) * accelerator.num_processes, len(encoded) - bar.n))
    scorer.train(was_training)
    return [values for _, values in sorted(gather_object(scored))]


def like_length(encoded: Sequence[EncodedQuestion], max_tokens: int, max_questions: int) -> list[list[int]]:
    """Places of the questions, batch by batch: those of like length together, so that padding costs little, and the
    longest first, so that a memory too small for them says so before anything was computed. The tokens of a batch, fed
    or scored (whichever are more), are `max_tokens` at most with their padding, unless one question has more."""
    sizes = [max(item.num_tokens, sum(map(len, item.ending_ids))) for item in encoded]
    batches: list[list[int]] = []
    for index in sorted(range(len(encoded)), key=lambda index: (-sizes[index], index)):
        count = len(batches[-1]) if batches else 0
        if count and count < max_questions and (count + 1) * sizes[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _by_candidate(row: torch.Tensor, item: EncodedQuestion) -> list[list[float]]:
    counts = [len(ids) for ids in item.ending_ids]
    return [part.tolist() for part in row[: sum(counts)].split(counts)]


def share_equal(values: Sequence, ending_ids: Sequence[list[int]]) -> list:
    """Equal endings take the value of the first of them: rounding depends on the place in the row, and ties must be
    true ties."""
    first: dict = {}
    return [first.setdefault(tuple(ids), value) for ids, value in zip(ending_ids, values, strict=False)]


def margin(values: Sequence[float]) -> float:
    """How far a choice is from another one: the largest value minus the second largest."""
    second, first = sorted(values)[-2:]
    return first - second
