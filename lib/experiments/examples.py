"""What models write for a few questions, next to the gold (section 6.3 of Marsh)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from lib.models.loading import DTYPES, LoadedModel, load_model, pick_precision
from lib.packed.inference import start_accelerator
from lib.questions.data import STRIP, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import PromptConfig, default_contract
from lib.questions.template import main_field
from lib.training.generation import ending_of, left_padded, stop_ids

NUM_QUESTIONS = 5


def make_examples(
    models: Mapping[str, str], data: str, split: str, candidates_file: str | None = None, contract: Path | None = None
) -> dict:
    """For each of the split's first questions its gold, and the ending that each of `models` (title to source)
    writes, under the prompt contract in the folder `contract` (None: the model's own, or the default one)."""
    dataset = load_split(data, split, limit=NUM_QUESTIONS, candidates_file=candidates_file)
    precision = pick_precision("auto")
    device = start_accelerator(precision).device
    field = main_field(dataset.default_template)[1]
    examples = [
        {
            "id": question.id,
            "prompt": question.fields[field],
            "gold": question.endings[question.label].strip(STRIP),
            "written": {},
        }
        for question in dataset.questions
    ]
    for title, source in models.items():
        loaded = load_model(source, DTYPES[precision], merge=True)
        given = PromptConfig.load(contract) if contract else loaded.prompt
        prompt = given or default_contract(dataset.default_template, loaded.tokenizer)
        encoded = encode_questions(dataset.questions, loaded.tokenizer, prompt)
        for example, text in zip(examples, greedy_endings(loaded, encoded, device), strict=True):
            example["written"][title] = text
    return {"models": dict(models), "questions": examples}


@torch.no_grad()
def greedy_endings(loaded: LoadedModel, encoded: Sequence[EncodedQuestion], device) -> list[str]:
    """The likeliest continuation, token by token, of each prompt: up to a new line or the end of the text, and no
    longer than the longest given candidate."""
    tokenizer, model = loaded.tokenizer, loaded.model.to(device)
    longest = [max(map(len, item.ending_ids)) for item in encoded]
    # The model's own settings (penalties, its length) would be mixed into those given to generate.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max(longest),
        eos_token_id=stop_ids(tokenizer),
        pad_token_id=tokenizer.eos_token_id,
        use_cache=True,
    )
    ids, mask = left_padded([item.prompt_ids for item in encoded], tokenizer.eos_token_id)
    output = model.generate(ids.to(device), attention_mask=mask.to(device))
    rows = output[:, ids.shape[1] :].tolist()
    return [ending_of(row[:length], tokenizer) for row, length in zip(rows, longest, strict=True)]
