"""From the questions of a file to those that training visits: rewards, self-negatives, what is dropped, a report."""

from collections.abc import Mapping
from dataclasses import replace

from accelerate import Accelerator

from lib.errors import InputError
from lib.models.loading import LoadedModel
from lib.questions.data import Dataset
from lib.questions.prompt import PromptConfig, encode_questions, report_encoding
from lib.training.negatives import TrainingQuestion, training_questions
from lib.training.recipe import Recipe, report_candidates
from lib.training.rewards import similarity_rewards
from lib.training.self_negatives import add_self_negatives, write_endings


def prepare_questions(
    train: Dataset,
    loaded: LoadedModel,
    prompt: PromptConfig,
    accelerator: Accelerator,
    recipe: Recipe,
    settings: Mapping,
    weights_sha256: str,
) -> tuple[list[TrainingQuestion], list[str], dict[str, str]]:
    """The questions to train on, what a reader must know of them, and a SHA-256 of text the model wrote for them.

    settings: those of the run; of them `rewards`, `self_negatives` and `seed` are read here. Raises InputError where
    no question is left.
    """
    report, sha256 = [], {}
    if loaded.prompt not in (None, prompt):
        report.append(f"note: {loaded.source} was trained with {loaded.prompt}; here it is {prompt}")
    if settings["rewards"] == "similarity":
        train = replace(train, questions=similarity_rewards(train.questions))
    encoded = encode_questions(train.questions, loaded.tokenizer, prompt)
    written_report = []
    if count := settings["self_negatives"]:
        written, sha256["self_negatives"] = write_endings(
            loaded, encoded, prompt, accelerator, count=count, seed=settings["seed"], weights_sha256=weights_sha256
        )
        encoded, counts = add_self_negatives(encoded, written, loaded.tokenizer, prompt)
        written_report = [f"  self-negatives {what}: {number}" for what, number in counts.items()]
    questions, dropped = training_questions(encoded)
    if not questions:
        raise InputError(f"{train.source}: no question is left to train on")
    report += report_encoding(train, encoded) + written_report
    report += [f"  dropped: {number} {what}" for what, number in dropped.items()]
    return questions, report + report_candidates(questions, recipe), sha256
