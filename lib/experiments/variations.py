"""What might raise accuracy: single changes of one recipe, compared on validation alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from lib.evaluation.scores import is_correct
from lib.experiments.layout import UNTUNED
from lib.experiments.sweep import Sweep
from lib.questions.readers import read_rows

# Scores that the C++ scorer can choose by: what is chosen here is shipped there.
COMPARED_SCORES = ("sum", "mean", "pmi", "reward")
RECIPE = "sdpo"  # the variation that changes nothing


@dataclass(frozen=True)
class Variation:
    """A run that differs from the recipe by `flags` of train_sdpo.py."""

    name: str
    flags: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """records: of each score, the predictions on validation. wanted: the score that outcomes are compared and shipped
    by."""

    name: str
    flags: str
    records: dict[str, list[dict]]
    wanted: str

    @property
    def accuracies(self) -> dict[str, float]:
        return {score: float(is_correct(own).mean()) for score, own in self.records.items()}

    @property
    def score(self) -> str:
        """The one that is wanted; of an untuned model, which has no reward, the best, the first of a tie."""
        if self.wanted in self.records:
            return self.wanted
        accuracies = self.accuracies
        return max(accuracies, key=accuracies.__getitem__)

    @property
    def chosen(self) -> list[dict]:
        """The predictions by that score."""
        return self.records[self.score]

    @property
    def accuracy(self) -> float:
        return self.accuracies[self.score]


def outcomes(sweep: Sweep, variations: Sequence[Variation], wanted: str) -> list[Outcome]:
    """The untuned model and the variations, from the predictions of a sweep whose score is "all"."""
    found = []
    for variation in [Variation(UNTUNED, ()), *variations]:
        paths = {score: sweep.predictions(variation.name, "validation", score) for score in COMPARED_SCORES}
        records = {score: [record for _, record in read_rows(path)] for score, path in paths.items() if path.exists()}
        found.append(Outcome(variation.name, " ".join(variation.flags), records, wanted))
    return found


def best(found: Sequence[Outcome]) -> Outcome:
    """The trained one of the highest accuracy; the first wins a tie."""
    return max((outcome for outcome in found if outcome.name != UNTUNED), key=lambda outcome: outcome.accuracy)
