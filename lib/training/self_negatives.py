"""Negatives that the starting model writes itself: what it says today, which training then pushes it away from."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple, replace
from pathlib import Path
from typing import BinaryIO

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import gather_object

from lib.models.loading import LoadedModel
from lib.packed.cache import cache_entry
from lib.packed.reference import cache_key
from lib.paths import CACHE_DIR, warn_not_kept
from lib.progress import progress
from lib.questions.data import STRIP
from lib.questions.prompt import EncodedQuestion, encode_questions, ending_text
from lib.questions.prompt_config import PromptConfig
from lib.training.generation import BATCH_SIZE, EndingSampler, Generation


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


def write_endings(
    loaded: LoadedModel, encoded: Sequence[EncodedQuestion], generation: Generation, accelerator: Accelerator
) -> tuple[list[list[str]], str]:
    """Endings for every prompt, sampled from the model at temperature 1 up to its end token, a new line, or the length
    of the question's longest given candidate; and the SHA-256 of all that text.

    Kept on disk, a line a batch of prompts as soon as it is written, under a key that covers weights, token ids, seed
    and whatever else the samples depend on.
    """
    settings = [*astuple(generation), BATCH_SIZE, str(loaded.model.dtype), accelerator.device.type]
    settings.append(loaded.model.config.to_json_string())  # among it rotary settings, and whether it is in 4 bits
    key = cache_key(loaded.weights_sha256, encoded, [*settings, torch.__version__, transformers.__version__])
    path = CACHE_DIR / "self_negatives" / f"{key}.jsonl"
    sampler = EndingSampler(loaded, encoded, generation)
    count = len(sampler.batches)
    with cache_entry(path, lambda: _read(path), lambda kept: len(kept[0]) == count, accelerator) as entry:
        (batches, num_bytes), writable = entry
        if len(batches) < count:
            loaded.model.to(accelerator.device)
            # Unbuffered: what a full disk refuses is not tried again when the file is closed.
            with path.open("ab", buffering=0) if writable else nullcontext() as file:
                if file:
                    file.truncate(num_bytes)
                _write_missing(sampler, batches, accelerator, file)
    by_question = sorted(
        (index, endings)
        for number, indices in enumerate(sampler.batches)
        for index, endings in zip(indices, batches[number], strict=True)
    )
    written = [endings for _, endings in by_question]
    return written, _sha256(written)


def _read(path: Path) -> tuple[dict[int, list[list[str]]], int]:
    """The batches kept in `path` by number, and the bytes that they take; what follows them was cut short."""
    batches, num_bytes = {}, 0
    try:
        with path.open("rb") as file:  # in bytes a line ends at \n alone, and a text may hold U+2028 and others
            for line in file:
                record = json.loads(line)
                if record.pop("sha256") != _sha256(record):
                    break  # damaged: it is written again, with what follows
                batches[record["batch"]] = record["endings"]
                num_bytes += len(line)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return batches, num_bytes


def _write_missing(sampler: EndingSampler, batches: dict, accelerator: Accelerator, file: BinaryIO | None) -> None:
    """Add to `batches`, and to the `file` where there is one, what they lack; the processes take turns."""
    missing = [number for number in range(len(sampler.batches)) if number not in batches]
    total = sum(map(len, sampler.batches))
    done = total - sum(len(sampler.batches[number]) for number in missing)
    world, rank = accelerator.num_processes, accelerator.process_index
    with progress(
        total=total, initial=done, desc="self-negatives", unit="prompt", disable=not accelerator.is_main_process
    ) as bar:
        for start in range(0, len(missing), world):
            own = missing[start : start + world][rank : rank + 1]
            for number, endings in gather_object([(number, sampler.sample(number)) for number in own]):
                batches[number] = endings
                if file and not _append(file, {"batch": number, "endings": endings}):
                    file = None
                bar.update(len(endings))


def _sha256(values: list | dict) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _append(file: BinaryIO, record: dict) -> bool:
    """Whether the record could be kept."""
    try:
        record = record | {"sha256": _sha256(record)}
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        warn_not_kept(Path(file.name), error)
        return False
    return True
