"""What turns a question into ids, as it travels with the adapter, the merged model and the ONNX file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.errors import InputError
from lib.paths import atomic_file

PROMPT_FILE = "prompt.json"
MAX_LENGTH = 512


@dataclass(frozen=True)
class PromptConfig:
    """The settings of the prompt contract (`prompt.py`); those of a model that brings none are `default_contract`'s.

    template: text with {field} names, one of them {context}, {question} or {prompt} (the one that may be cut).
    max_length: tokens, prompt + longest candidate.
    end_token: close every ending with the tokenizer's end-of-text token.
    max_ending: tokens of an ending, the end token included; None, as in files that know no such bound: any.
    start_token: open every prompt with the tokenizer's beginning-of-text token; files that know none do not.
    """

    template: str
    max_length: int = MAX_LENGTH
    end_token: bool = True
    max_ending: int | None = None
    start_token: bool = False

    def __post_init__(self):
        if not isinstance(self.template, str):
            raise TypeError(f"template {self.template!r:.60} is not a string")
        for name, value in (("max_length", self.max_length), ("max_ending", self.max_ending)):
            unbounded = name == "max_ending" and value is None
            if not unbounded and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise TypeError(f"{name} {value!r:.60} is not a number of tokens")
        for name, value in (("end_token", self.end_token), ("start_token", self.start_token)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} {value!r:.60} is neither true nor false")

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the contract, where questions scored under different ones must not be taken for
        the same. What older files do not know leaves it as it was."""
        known = {name: value for name, value in asdict(self).items() if name not in ("max_ending", "start_token")}
        if self.max_ending is not None:
            known["max_ending"] = self.max_ending
        if self.start_token:
            known["start_token"] = True
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def check_tokenizer(self, tokenizer) -> None:
        """Raises InputError where the tokenizer lacks a token that the contract puts."""
        for asked, token_id, what in (
            (self.start_token, tokenizer.bos_token_id, "a beginning-of-text token"),
            (self.end_token, tokenizer.eos_token_id, "an end-of-text token"),
        ):
            if asked and token_id is None:
                raise InputError(
                    f"the prompt contract asks for {what}, and the model's tokenizer names none; "
                    "leave out what asks for it, --contract or --end-token"
                )

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


def default_contract(
    template: str, tokenizer, *, max_length: int = MAX_LENGTH, max_ending: int | None = None, end_token: bool = True
) -> PromptConfig:
    """The contract of a model that brings none. An ending takes half of `max_length` at most unless `max_ending` says
    otherwise; a prompt is opened with the start token where the model's own tokenizer opens texts with it (Llama and
    Gemma; not Qwen, not SmolLM2)."""
    start = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return PromptConfig(template, max_length, end_token, max_ending or max(1, max_length // 2), start)
