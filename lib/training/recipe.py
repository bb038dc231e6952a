"""What a run minimises and on which candidates, read from its settings; and what of the settings has no effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lib.training.losses import LOSSES, LossOptions, Objective, log_weights
from lib.training.negatives import Sampling, TrainingQuestion


@dataclass(frozen=True)
class Recipe:
    """The objective, its options, and on which candidates: the rewards ("data" or "similarity"), how many endings the
    model writes for each question, and how candidates are drawn."""

    objective: Objective
    options: LossOptions
    rewards: str
    num_self_negatives: int
    sampling: Sampling

    @property
    def needs_pmi(self) -> bool:
        """Whether negatives are drawn by their pmi under the reference."""
        return self.sampling.negatives == "hard"

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probs are asked for: by the loss, or to draw hard negatives by them."""
        return self.objective.reference or self.needs_pmi


def make_recipe(settings: Mapping) -> Recipe:
    """The recipe of a run's `settings`, flags of train_sdpo.py by name."""
    objective = LOSSES[settings["loss"]]
    one_positive = settings["loss"] == "swepo" and settings["swepo_groups"] == "1-vs-k"
    number = num_negatives(settings)
    return Recipe(
        objective,
        LossOptions(**{name: settings[name] for name in LossOptions.__dataclass_fields__}),
        settings["rewards"],
        settings["self_negatives"] if number else 0,
        Sampling(
            num_negatives=number,
            all_positives=objective.all_positives and not one_positive,
            seed=settings["seed"],
            negatives=settings["negatives"] if number else "random",
            temperature=settings["hard_temperature"],
        ),
    )


def num_negatives(settings: Mapping) -> int:
    """Negatives drawn a question and epoch: --num-neg, unless the objective fixes the number."""
    fixed = LOSSES[settings["loss"]].num_negatives
    return settings["num_neg"] if fixed is None else fixed


def without_effect(settings: Mapping) -> set[str]:
    """Names of the settings that change nothing under the others."""
    objective = LOSSES[settings["loss"]]
    names = {name for other in LOSSES.values() for name in other.options} - set(objective.options)
    names.add("alpha" if settings["weighting"] == "power" else "power")
    if not objective.reference:
        names.add("beta")
    if objective.num_negatives is not None:
        names.add("num_neg")
    if objective.num_negatives == 0:
        names |= {"negatives", "hard_temperature", "self_negatives"}
    if not settings["lora_r"]:
        names |= {"lora_alpha", "lora_dropout"}
    if settings["negatives"] != "hard":
        names.add("hard_temperature")
    return names


def report_candidates(questions: Sequence[TrainingQuestion], recipe: Recipe) -> list[str]:
    """What a reader must know of rewards and weights: one line each, only where there is something."""
    lines = []
    others = sum(len(item.positives) - 1 for item in questions)
    if others:
        fate = "positives too" if recipe.sampling.all_positives else "left out"
        lines.append(f"  {others} candidates besides the best lie above their question's mean reward: {fate}")
    few = max(len(item.negatives) for item in questions) <= recipe.sampling.num_negatives
    if few and recipe.sampling.negatives != "random":
        lines.append(
            f"note: no question has more negatives than are drawn: {recipe.sampling.negatives} are all of them"
        )
    one_hot = all(_is_one_hot(item.encoded.question.rewards) for item in questions)
    if one_hot and "weighting" in recipe.objective.options:
        constant = " or ".join(f"{shift:+.4f}" for shift in sorted(one_hot_shifts(questions, recipe.options)))
        lines.append(f"rewards are one-hot: the weights shift every negative's score by one constant, {constant}")
    return lines


def _is_one_hot(rewards: Sequence[float]) -> bool:
    return sorted(rewards) == [0.0] * (len(rewards) - 1) + [1.0]


def one_hot_shifts(questions: Sequence[TrainingQuestion], options: LossOptions) -> set[float]:
    """What SWEPO's weights add to a negative's score against the positive's, log(w- / w+), where rewards are one-hot:
    one number for each number of candidates."""
    shifts = set()
    for mean in {item.mean for item in questions}:
        levels, mean_reward = (torch.tensor(values, dtype=torch.float64) for values in ([[0.0, 1.0]], [mean]))
        negative, positive = log_weights(levels, mean_reward, options)[0].tolist()
        shifts.add(negative - positive)
    return shifts
