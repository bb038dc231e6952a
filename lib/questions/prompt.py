"""The prompt contract: how a question becomes token ids. Training, evaluation, export and the C++ scorer share it.

- A template makes the prompt. Fields are replaced once; braces inside the data mean nothing.
- White space (`STRIP`) at the prompt's end and around an ending is stripped; an ending starts with exactly one space.
- Prompt and ending are encoded apart, and an ending is closed with the end-of-text token unless that is switched off.
- `max_length` bounds prompt + longest of all candidates. Only the left of the context is cut.
"""

import hashlib
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
BATCH = 1000  # texts that the tokenizer takes at once: it keeps offsets and pieces of each until then
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

    def __post_init__(self):
        if not isinstance(self.template, str):
            raise TypeError(f"template {self.template!r:.60} is not a string")
        if not isinstance(self.max_length, int) or isinstance(self.max_length, bool) or self.max_length < 1:
            raise TypeError(f"max_length {self.max_length!r:.60} is not a number of tokens")
        if not isinstance(self.end_token, bool):
            raise TypeError(f"end_token {self.end_token!r:.60} is neither true nor false")

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the contract, where questions scored under different ones must not be taken for
        the same."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        with atomic_file(folder / PROMPT_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "PromptConfig":
        """The contract of a folder, or of a file as `save` writes it. Raises InputError where it is none."""
        file = path / PROMPT_FILE if path.is_dir() else path
        try:
            return PromptConfig(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{file}: not a prompt configuration ({error}); train or export the model again") from None


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as ids. `ending_ids[k]` holds candidate k's tokens, the end token included."""

    question: Question
    prompt_ids: list[int]
    ending_ids: list[list[int]]
    truncated: int  # tokens cut from the left of the context
    joint_differs: bool  # encoding prompt and some ending in one string would give other ids
    control_tokens: bool = False  # the text itself, of prompt or endings, spells some, such as <|endoftext|>

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


def encode_questions(questions: Sequence[Question], tokenizer, config: PromptConfig) -> list[EncodedQuestion]:
    """Encode questions by the contract above.

    A text that spells a control token is encoded as one, as Hugging Face's tokenizers do by default: it is counted.
    Raises InputError for an empty prompt and for endings that alone exceed `max_length`.
    """
    known: dict[int, int] = {}  # one Python integer a token id, not one a token: a fifth of the memory

    def encode(texts: Sequence[str]) -> list[list[int]]:
        rows = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], add_special_tokens=False, return_attention_mask=False)
            rows += [list(map(known.setdefault, ids, ids)) for ids in batch["input_ids"]]
        return rows

    end = [tokenizer.eos_token_id] if config.end_token else []
    control = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    pieces = [render(config.template, question) for question in questions]
    texts = ["".join(piece) for piece in pieces]
    prompts = encode(texts)
    differs = _joint_differs(texts, questions, encode)
    encoded = []
    encoded_endings: dict[tuple[str, ...], list[list[int]]] = {}  # class names are the same for every question
    for number, (question, piece, prompt_ids) in enumerate(zip(questions, pieces, prompts, strict=True)):
        if question.endings not in encoded_endings:
            encoded_endings[question.endings] = encode([ending_text(ending) for ending in question.endings])
        bare_ids = encoded_endings[question.endings]
        ending_ids = [ids + end for ids in bare_ids]
        kept_ids, truncated = _cut(question, piece, prompt_ids, max(map(len, ending_ids)), config.max_length, encode)
        spelt = any(not control.isdisjoint(ids) for ids in (kept_ids, *bare_ids))
        encoded.append(EncodedQuestion(question, kept_ids, ending_ids, truncated, differs[number], spelt))
    return encoded


def _joint_differs(texts: Sequence[str], questions: Sequence[Question], encode) -> list[bool]:
    """Of each prompt's text and its question's endings, whether encoding them in one string would give other ids.

    Tokens are pieces of words, so that what lies beyond the last word of the prompt and the first of the ending does
    not matter: these alone are encoded, and any two of them once.
    """
    pairs = []
    for text, question in zip(texts, questions, strict=True):
        last = text[max(0, text.rfind(" ")) :]
        pairs.append([(last, " " + ending.strip(STRIP).partition(" ")[0]) for ending in question.endings])
    distinct = list(dict.fromkeys(pair for own in pairs for pair in own))
    words = list(dict.fromkeys(word for pair in distinct for word in pair))
    ids = dict(zip(words, encode(words), strict=True))
    joint = encode([last + first for last, first in distinct])
    differing = {pair for pair, whole in zip(distinct, joint, strict=True) if whole != ids[pair[0]] + ids[pair[1]]}
    return [not differing.isdisjoint(own) for own in pairs]


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
        "whose text spells control tokens, which are read as such": sum(item.control_tokens for item in encoded),
        "with an empty ending": dataset.num_empty,
        "with two equal endings": dataset.num_equal,
    }
    lines = [f"{dataset.source}: {len(encoded)} questions, {sum(item.num_tokens for item in encoded)} packed tokens"]
    return lines + [f"  {count} {what}" for what, count in counts.items() if count]
