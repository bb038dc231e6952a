"""The prompt contract: how a question becomes token ids. Training, evaluation, export and the C++ scorer share it.

- A template makes the prompt. Fields are replaced once; braces inside the data mean nothing.
- White space (`STRIP`) at the prompt's end and around an ending is stripped; an ending starts with exactly one space.
- Prompt and ending are encoded apart, and an ending is closed with the end-of-text token unless that is switched off.
- `max_length` bounds prompt + longest of all candidates. Only the left of the context is cut.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.errors import InputError
from lib.paths import atomic_file
from lib.questions.data import STRIP, Dataset, Question

PROMPT_FILE = "prompt.json"
MAIN_FIELDS = ("context", "question", "prompt")
NEUTRAL_PROMPT = "Answer:"
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptConfig:
    """What turns a question into ids; it travels with the adapter, the merged model and the ONNX file.

    template: text with {field} names, one of them {context}, {question} or {prompt} (the one that may be cut).
    max_length: tokens, prompt + longest candidate.
    end_token: close every ending with the tokenizer's end-of-text token.
    """

    template: str
    max_length: int = 512
    end_token: bool = True

    def save(self, folder: Path) -> None:
        with atomic_file(folder / PROMPT_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> "PromptConfig":
        path = folder / PROMPT_FILE
        try:
            return PromptConfig(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a prompt configuration ({error}); train or export the model again") from None


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as ids. `ending_ids[k]` holds candidate k's tokens, the end token included."""

    question: Question
    prompt_ids: list[int]
    ending_ids: list[list[int]]
    truncated: int  # tokens cut from the left of the context
    joint_differs: bool  # encoding prompt and some ending in one string would give other ids

    @property
    def num_tokens(self) -> int:
        """Length of the packed row: a candidate's last token predicts nothing and is not fed."""
        return len(self.prompt_ids) + sum(len(ids) - 1 for ids in self.ending_ids)


def ending_text(ending: str) -> str:
    """The ending as it is encoded: stripped, after exactly one space."""
    return " " + ending.strip(STRIP)


def num_bytes(ending: str) -> int:
    """UTF-8 bytes of the ending without its leading space, at least 1 (an empty ending must not divide by 0)."""
    return max(1, len(ending.strip(STRIP).encode()))


def render(template: str, question: Question) -> tuple[str, str, str]:
    """The prompt in three pieces: what stands before the main field, its value, and what stands after it, the
    prompt's end stripped. Raises InputError where the template names a field that the question lacks."""

    def value(match: re.Match) -> str:
        name = match[1]
        if name not in question.fields:
            raise InputError(f"{question.source}: field '{name}' is missing; the template '{template}' needs it")
        return question.fields[name]

    main = main_field(template)
    prefix = _FIELD.sub(value, template[: main.start()])
    body = value(main)
    suffix = _FIELD.sub(value, template[main.end() :]).rstrip(STRIP)
    if not suffix:
        body = body.rstrip(STRIP)
        prefix = prefix if body else prefix.rstrip(STRIP)
    return prefix, body, suffix


def neutral_prompt(template: str) -> str:
    """What stands for the question where an ending is scored without one: the template with every field empty, or
    `NEUTRAL_PROMPT` where that leaves nothing (the "domain premise" of Holtzman et al. 2021)."""
    return _FIELD.sub("", template).rstrip(STRIP) or NEUTRAL_PROMPT


def main_field(template: str) -> re.Match:
    """The first {context}, {question} or {prompt} of the template: the only text that may be cut."""
    for match in _FIELD.finditer(template):
        if match[1] in MAIN_FIELDS:
            return match
    raise InputError(f"template '{template}': it must hold {{context}}, {{question}} or {{prompt}}")


def encode_questions(
    questions: Sequence[Question], tokenizer, config: PromptConfig, *, check_joint: bool = True
) -> list[EncodedQuestion]:
    """Encode questions by the contract above. `check_joint` also finds those whose joint encoding differs.

    Raises InputError for an empty prompt and for endings that alone exceed `max_length`.
    """

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return (
            tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []
        )

    end = [tokenizer.eos_token_id] if config.end_token else []
    pieces = [render(config.template, question) for question in questions]
    prompts = encode(["".join(piece) for piece in pieces])
    encoded = []
    encoded_endings: dict[tuple[str, ...], list[list[int]]] = {}  # class names are the same for every question
    for question, piece, prompt_ids in zip(questions, pieces, prompts, strict=True):
        endings = [ending_text(ending) for ending in question.endings]
        if question.endings not in encoded_endings:
            encoded_endings[question.endings] = encode(endings)
        bare_ids = encoded_endings[question.endings]
        ending_ids = [ids + end for ids in bare_ids]
        kept_ids, truncated = _cut(question, piece, prompt_ids, max(map(len, ending_ids)), config.max_length, encode)
        joint_differs = check_joint and any(
            joint != prompt_ids + ids
            for joint, ids in zip(encode(["".join(piece) + ending for ending in endings]), bare_ids, strict=True)
        )
        encoded.append(EncodedQuestion(question, kept_ids, ending_ids, truncated, joint_differs))
    return encoded


def _cut(question, piece, prompt_ids, longest, max_length, encode) -> tuple[list[int], int]:
    """The prompt's ids within the limit, and how many tokens of the context were cut from its left."""
    truncated = 0
    if len(prompt_ids) + longest > max_length:
        # The pieces are encoded apart only here, so that the cut knows where the context lies among the ids.
        prefix_ids, body_ids, suffix_ids = encode(piece)
        fixed = len(prefix_ids) + len(suffix_ids) + longest
        if fixed > max_length:
            raise InputError(
                f"{question.source}: endings and template need {fixed} tokens, over --max-length {max_length}; raise it"
            )
        truncated = max(0, fixed + len(body_ids) - max_length)
        prompt_ids = prefix_ids + body_ids[truncated:] + suffix_ids
    if not prompt_ids:
        raise InputError(f"{question.source}: the prompt is empty; the first ending token needs one to follow")
    return prompt_ids, truncated


def report_encoding(dataset: Dataset, encoded: Sequence[EncodedQuestion]) -> list[str]:
    """What a reader must know of the questions as they were encoded: one line each, only where there is something."""
    counts = {
        "cut on the left of the context to fit --max-length": sum(item.truncated > 0 for item in encoded),
        "whose joint encoding differs at the boundary": sum(item.joint_differs for item in encoded),
        "with an empty ending": dataset.num_empty,
        "with two equal endings": dataset.num_equal,
    }
    lines = [f"{dataset.source}: {len(encoded)} questions, {sum(item.num_tokens for item in encoded)} packed tokens"]
    return lines + [f"  {count} {what}" for what, count in counts.items() if count]
