"""From the questions of a file to those that training visits: rewards, self-negatives, what is dropped, a report; and
what the reference says of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from lib.errors import InputError
from lib.models.loading import LoadedModel
from lib.packed.inference import Logprobs
from lib.packed.neutral import neutral_logprobs
from lib.questions.data import Dataset
from lib.questions.prompt import EncodedQuestion, PromptConfig, encode_questions, report_encoding
from lib.training.generation import Generation
from lib.training.negatives import TrainingQuestion, training_questions
from lib.training.recipe import Recipe, report_candidates
from lib.training.rewards import similarity_rewards
from lib.training.self_negatives import add_self_negatives, write_endings


def prepare_questions(
    train: Dataset,
    loaded: LoadedModel,
    prompt: PromptConfig,
    recipe: Recipe,
    accelerator: Accelerator,
) -> tuple[list[TrainingQuestion], list[str], dict[str, str]]:
    """The questions to train on, what a reader must know of them, and a SHA-256 of text the model wrote for them.

    Raises InputError where no question is left.
    """
    report, sha256 = [], {}
    if loaded.prompt not in (None, prompt):
        report.append(f"note: {loaded.source} was trained with {loaded.prompt}; here it is {prompt}")
    if recipe.rewards == "similarity":
        train = replace(train, questions=similarity_rewards(train.questions))
    encoded = encode_questions(train.questions, loaded.tokenizer, prompt)
    written_report = []
    if recipe.num_self_negatives:
        generation = Generation(recipe.num_self_negatives, recipe.sampling.seed, prompt.end_token)
        written, sha256["self_negatives"] = write_endings(loaded, encoded, generation, accelerator)
        encoded, counts = add_self_negatives(encoded, written, loaded.tokenizer, prompt)
        written_report = [f"  self-negatives {what}: {number}" for what, number in counts.items()]
    questions, dropped = training_questions(encoded)
    if not questions:
        raise InputError(f"{train.source}: no question is left to train on")
    report += report_encoding(train, encoded) + written_report
    report += [f"  dropped: {number} {what}" for what, number in dropped.items()]
    return questions, report + report_candidates(questions, recipe), sha256


def with_reference(
    questions: Sequence[TrainingQuestion],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    score: Callable[[Sequence[EncodedQuestion]], Logprobs],
) -> list[TrainingQuestion]:
    """The questions with what `recipe` asks of the reference, whose log-probs `score` gives."""
    if not recipe.needs_reference:
        return list(questions)
    encoded = [item.encoded for item in questions]
    known = [replace(item, reference=own) for item, own in zip(questions, score(encoded), strict=True)]
    if recipe.needs_pmi:
        neutral = neutral_logprobs(encoded, tokenizer, template, score)
        known = [
            replace(item, pmi=[one - other for one, other in zip(item.reference, own, strict=True)])
            for item, own in zip(known, neutral, strict=True)
        ]
    return known
