"""Scoring many questions: batches of like length, over every process, in the order given."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from lib.errors import InputError
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.progress import progress
from lib.questions.prompt import EncodedQuestion

Logprobs = list[list[float]]  # one list a question, one number a candidate: sums over its tokens

SCORING_BATCH_SIZE = 4  # questions; without gradients this stays far below the memory of a training step


def start_accelerator(precision: str) -> Accelerator:
    """The device and the processes: GPUs where there are any, else the CPU (also under torchrun)."""
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        # The schedule counts our steps; accelerate would advance it once for every process.
        step_scheduler_with_optimizer=False,
    )


def score_questions(
    scorer: PackedScorer,
    encoded: Sequence[EncodedQuestion],
    accelerator: Accelerator,
    *,
    batch_size: int,
    description: str,
    per_token: bool = False,
) -> list[list]:
    """Log-probs of every candidate of every question, in fp32: one list of K floats a question; with `per_token` one
    list of K lists of floats, one a token.

    Questions of like length share a batch, so that padding costs little; batches are dealt out to the processes.
    Raises InputError that names the question whose log-prob is not finite.
    """
    by_length = sorted(range(len(encoded)), key=lambda index: (encoded[index].num_tokens, index))
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
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


def _by_candidate(row: torch.Tensor, item: EncodedQuestion) -> list[list[float]]:
    counts = [len(ids) for ids in item.ending_ids]
    return [part.tolist() for part in row[: sum(counts)].split(counts)]


def share_equal(values: Sequence, ending_ids: Sequence[list[int]]) -> list:
    """Equal endings take the value of the first of them: rounding depends on the place in the row, and ties must be
    true ties."""
    return [values[ending_ids.index(ids)] for ids in ending_ids]


def margin(values: Sequence[float]) -> float:
    """How far a choice is from another one: the largest value minus the second largest."""
    second, first = sorted(values)[-2:]
    return first - second
