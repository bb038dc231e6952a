"""What a run begins with: model, and from the questions of a file to those that training visits (rewards,
self-negatives, what is dropped, a report, and what the reference says of them)."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from lib.errors import InputError
from lib.models.loading import DTYPES, LoadedModel, load_model, make_policy
from lib.packed.inference import Logprobs
from lib.packed.neutral import neutral_logprobs
from lib.packed.onednn_layers import use_onednn
from lib.packed.selfcheck import check_family
from lib.questions.data import Dataset, load_train_and_validation
from lib.questions.prompt import EncodedQuestion, encode_questions, report_encoding
from lib.questions.prompt_config import PromptConfig, default_contract
from lib.training.generation import Generation
from lib.training.memory import pick_checkpointing
from lib.training.negatives import TrainingQuestion, training_questions
from lib.training.recipe import Recipe, report_candidates
from lib.training.rewards import similarity_rewards
from lib.training.self_negatives import add_self_negatives, write_endings


@dataclass(frozen=True)
class Start:
    """What a run begins with: the model to train (the policy) and what it was loaded as, its questions, and what a
    resumed run must share with this one."""

    loaded: LoadedModel
    model: nn.Module
    prompt: PromptConfig
    questions: list[TrainingQuestion]
    validation: list[EncodedQuestion]
    identity: dict


def load_start(settings: Namespace, recipe: Recipe, precision: str, accelerator: Accelerator) -> Start:
    """Read data and model, encode, and say what a reader must know of them."""
    how = {"limit": settings.limit, "strict": settings.strict, "candidates_file": settings.candidates}
    train, validation = load_train_and_validation(settings.data, settings.validation_share, **how)
    if validation is None:
        accelerator.print(f"{settings.data}: no validation split, so none is looked at; --validation-share takes one")
    # Steps of a full fine-tuning are too small for weights in bf16.
    dtype = DTYPES[precision if settings.lora_r else "fp32"]
    loaded = load_model(settings.model, dtype, merge=True, four_bit=settings.load_in_4bit)
    prompt = default_contract(
        settings.template or train.default_template,
        loaded.tokenizer,
        max_length=settings.max_length,
        max_ending=settings.max_ending,
        end_token=settings.end_token,
    )
    identity = {"base_model": loaded.model.name_or_path, "base_sha256": loaded.weights_sha256}
    if loaded.trained_on:
        identity["trained_on"] = sorted(loaded.trained_on)
    questions, report, written_sha256 = prepare_questions(train, loaded, prompt, recipe, accelerator, settings.strict)
    checkpointing, said = pick_checkpointing(
        vars(settings), loaded.model, questions, recipe.sampling, accelerator.device
    )
    accelerator.print("\n".join(report + said))
    held_out = validation.questions if validation else []
    encoded_validation = encode_questions(held_out, loaded.tokenizer, prompt, strict=settings.strict)
    check_family(loaded.model, prompt.max_length)
    model = make_policy(
        loaded.model, settings.lora_r, settings.lora_alpha, settings.lora_dropout, checkpointing=checkpointing
    )
    use_onednn(model)
    hashes = {"train": train.sha256} | ({"validation": validation.sha256} if validation else {}) | written_sha256
    identity |= {"data_sha256": hashes, "prompt": vars(prompt)}
    return Start(loaded, model, prompt, questions, encoded_validation, identity)


def prepare_questions(
    train: Dataset,
    loaded: LoadedModel,
    prompt: PromptConfig,
    recipe: Recipe,
    accelerator: Accelerator,
    strict: bool,
) -> tuple[list[TrainingQuestion], list[str], dict[str, str]]:
    """The questions to train on, what a reader must know of them, and a SHA-256 of text the model wrote for them.

    Raises InputError where no question is left.
    """
    report, sha256 = [], {}
    if loaded.prompt not in (None, prompt):
        report.append(f"note: {loaded.source} was trained with {loaded.prompt}; here it is {prompt}")
    if recipe.rewards == "similarity":
        train = replace(train, questions=similarity_rewards(train.questions))
    encoded = encode_questions(train.questions, loaded.tokenizer, prompt, strict=strict)
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
    prompt: PromptConfig,
    score: Callable[[Sequence[EncodedQuestion]], Logprobs],
) -> list[TrainingQuestion]:
    """The questions with what `recipe` asks of the reference, whose log-probs `score` gives."""
    if not recipe.needs_reference:
        return list(questions)
    encoded = [item.encoded for item in questions]
    known = [replace(item, reference=own) for item, own in zip(questions, score(encoded), strict=True)]
    if recipe.needs_pmi:
        neutral = neutral_logprobs(encoded, tokenizer, prompt, score)
        known = [
            replace(item, pmi=[one - other for one, other in zip(item.reference, own, strict=True)])
            for item, own in zip(known, neutral, strict=True)
        ]
    return known
