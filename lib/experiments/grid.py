"""The runs of a grid: losses, numbers of negatives, betas and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from lib.training.losses import LOSSES


@dataclass(frozen=True)
class Run:
    """One cell of a grid. num_neg: negatives drawn a question and epoch; beta is None where the loss reads none."""

    loss: str
    num_neg: int
    beta: float | None
    seed: int

    @property
    def name(self) -> str:
        beta = "" if self.beta is None else f"-beta{self.beta}"
        return f"{self.loss}-neg{self.num_neg}{beta}-seed{self.seed}"

    @property
    def flags(self) -> list[str]:
        flags = ["--loss", self.loss, "--seed", str(self.seed)]
        if LOSSES[self.loss].num_negatives is None:
            flags += ["--num-neg", str(self.num_neg)]
        return flags if self.beta is None else [*flags, "--beta", str(self.beta)]


def make_grid(
    losses: Sequence[str],
    every_num_neg: Sequence[str],
    nums_neg: Sequence[int],
    betas: Sequence[float],
    seeds: Sequence[int],
    every_seed: Sequence[str] = tuple(LOSSES),
    every_seed_num_neg: Sequence[int] | None = None,
) -> list[Run]:
    """The runs of a grid, seed by seed, so that a sweep cut short has seen every cell with the first ones.

    The losses among `every_num_neg` are run with each number of negatives, the others with the largest alone, at the
    budget that all of them share; those among `every_seed` with each seed, the others with the first alone, and so the
    numbers that are not among `every_seed_num_neg` (None: all). A loss that fixes the number, or reads no beta, is run
    once for all of them.
    """
    runs = []
    for seed in seeds:
        for loss in losses if seed == seeds[0] else [loss for loss in losses if loss in every_seed]:
            objective = LOSSES[loss]
            numbers = nums_neg if loss in every_num_neg else [max(nums_neg)]
            if objective.num_negatives is not None:
                numbers = [objective.num_negatives]
            elif seed != seeds[0] and every_seed_num_neg is not None:
                numbers = [number for number in numbers if number in every_seed_num_neg]
            for beta in betas if objective.reference else [None]:
                runs += [Run(loss, number, beta, seed) for number in numbers]
    return list(dict.fromkeys(runs))
