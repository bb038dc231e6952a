"""Negatives that the starting model writes itself: what it says today, which training then pushes it away from."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lib.models.loading import LoadedModel
from lib.packed.reference import cache_key
from lib.paths import CACHE_DIR, atomic_file
from lib.progress import progress
from lib.questions.data import STRIP
from lib.questions.prompt import EncodedQuestion, PromptConfig, encode_questions, ending_text

BATCH_SIZE = 8  # prompts; what is sampled depends on it


def add_self_negatives(
    encoded: Sequence[EncodedQuestion], written: Sequence[Sequence[str]], tokenizer, prompt: PromptConfig
) -> tuple[list[EncodedQuestion], Counter]:
    """The questions with the endings that were `written` for each, encoded anew, and a count of what became of those.

    Left out are empty ones, those equal to a given candidate or to an earlier one (stripped), and those of more tokens
    than the longest given candidate, so that the prompt is cut as it was. A written ending has the lowest reward of
    its question, which is 0 for labelled data: nothing says that it is worse than the worst, and it must not lift a
    given candidate above the mean, so that it does not count towards that either.
    """
    questions, counts = [], Counter()
    for item, endings in zip(encoded, written, strict=True):
        texts = [ending.strip(STRIP) for ending in item.question.endings]
        longest = max(map(len, item.ending_ids)) - prompt.end_token
        added = []
        for text in (ending.strip(STRIP) for ending in endings):
            if not text:
                counts["empty"] += 1
            elif text in texts or text in added:
                counts["equal to a given candidate or an earlier one"] += 1
            elif len(tokenizer(ending_text(text), add_special_tokens=False)["input_ids"]) > longest:
                counts["longer than every given candidate"] += 1
            else:
                added.append(text)
        counts["added"] += len(added)
        questions.append(
            replace(
                item.question,
                endings=(*item.question.endings, *added),
                rewards=(*item.question.rewards, *[min(item.question.rewards)] * len(added)),
                generated=len(added),
            )
        )
    return encode_questions(questions, tokenizer, prompt), counts


@dataclass(frozen=True)
class Generation:
    """count: endings a prompt. seed: of what is sampled. end_token: whether given endings are closed by one, which
    does not count towards their length."""

    count: int
    seed: int
    end_token: bool


def write_endings(
    loaded: LoadedModel, encoded: Sequence[EncodedQuestion], generation: Generation, accelerator: Accelerator
) -> tuple[list[list[str]], str]:
    """Endings for every prompt, sampled from the model at temperature 1 up to its end token, a new line, or the length
    of the question's longest given candidate; and the SHA-256 of all that text.

    Kept on disk, under a key that covers weights, token ids, seed and whatever else the samples depend on.
    """
    settings = [*astuple(generation), BATCH_SIZE, str(loaded.model.dtype), accelerator.device.type]
    key = cache_key(loaded.weights_sha256, encoded, [*settings, torch.__version__, transformers.__version__])
    path = CACHE_DIR / "self_negatives" / f"{key}.jsonl"
    written = _read(path, len(encoded), generation.count)
    if written is None:
        loaded.model.to(accelerator.device)
        written = _generate(loaded, encoded, generation, accelerator)
        if accelerator.is_main_process:
            with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
                for item, endings in zip(encoded, written, strict=True):
                    file.write(json.dumps({"id": item.question.id, "endings": endings}, ensure_ascii=False) + "\n")
    return written, hashlib.sha256(json.dumps(written).encode()).hexdigest()


def _read(path: Path, num_questions: int, count: int) -> list[list[str]] | None:
    """The endings kept in `path`, or None where it is absent or broken."""
    try:
        written = [json.loads(line)["endings"] for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = len(written) == num_questions and all(len(endings) == count for endings in written)
    return written if whole else None


@torch.no_grad()
def _generate(
    loaded: LoadedModel, encoded: Sequence[EncodedQuestion], generation: Generation, accelerator: Accelerator
) -> list[list[str]]:
    """Batches of prompts of like length, dealt out to the processes; each batch has a seed of its own."""
    model, tokenizer, count = loaded.model, loaded.tokenizer, generation.count
    longest = [max(map(len, item.ending_ids)) - generation.end_token for item in encoded]
    by_length = sorted(range(len(encoded)), key=lambda index: (len(encoded[index].prompt_ids), index))
    batches = [by_length[start : start + BATCH_SIZE] for start in range(0, len(by_length), BATCH_SIZE)]
    stops = stop_ids(tokenizer)
    written: list[tuple[int, list[str]]] = []
    own_config = model.generation_config
    try:
        with (
            torch.random.fork_rng(),
            progress(
                total=len(encoded), desc="self-negatives", unit="prompt", disable=not accelerator.is_main_process
            ) as bar,
        ):
            for number in range(accelerator.process_index, len(batches), accelerator.num_processes):
                indices = batches[number]
                # The model's own settings (penalties, top-p, its length) would be mixed into those given to generate.
                model.generation_config = GenerationConfig(
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    num_return_sequences=count,
                    max_new_tokens=max(longest[index] for index in indices),
                    eos_token_id=stops,
                    pad_token_id=tokenizer.eos_token_id,
                    use_cache=True,
                )
                torch.manual_seed(random.Random(f"{generation.seed}/{number}").getrandbits(63))
                ids, mask = left_padded([encoded[index].prompt_ids for index in indices], tokenizer.eos_token_id)
                output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device))
                rows = output[:, ids.shape[1] :].tolist()
                for place, index in enumerate(indices):
                    own = rows[place * count : (place + 1) * count]
                    written.append((index, [ending_of(row[: longest[index]], tokenizer) for row in own]))
                bar.update(min(len(indices) * accelerator.num_processes, len(encoded) - bar.n))
    finally:
        model.generation_config = own_config
    return [endings for _, endings in sorted(gather_object(written))]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens at which an ending is over: end of text, and every token with a new line in it."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [tokenizer.eos_token_id, *(token for token, text in enumerate(texts) if "\n" in text)]


def left_padded(prompts: Sequence[list[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [B, L] whose rows all end with the prompt's last token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


def ending_of(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first line of what was generated up to the end token, without pieces of characters."""
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    return tokenizer.decode(ids[:end], skip_special_tokens=True).replace("\ufffd", "").split("\n")[0].strip(STRIP)
