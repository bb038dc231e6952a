"""The prompt contract: how a question becomes token ids. Training, evaluation, export and the C++ scorer share it.

- A template makes the prompt. Fields are replaced once; braces inside the data mean nothing.
- White space (`STRIP`) at the prompt's end and around an ending is stripped; an ending starts with exactly one space.
- Prompt and ending are encoded apart. A prompt is opened with the start token where the contract says so, and an ending
  is closed with the end-of-text token unless that is switched off.
- An ending of more than `max_ending` tokens, the end token among them, is cut on its right: the end token goes first.
- `max_length` bounds prompt + longest of all candidates. Only the left of the context is cut; `KEPT_CONTEXT` tokens of
  it, or half of what the template leaves where that is less, stay, at the expense of endings that are longer still.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lib.errors import InputError
from lib.progress import BRIEF, progress
from lib.questions.data import STRIP, Dataset, Question
from lib.questions.prompt_config import PromptConfig
from lib.questions.template import neutral_prompt, render

KEPT_CONTEXT = 64
BATCH = 1000  # texts that the tokenizer takes at once: it keeps offsets and pieces of each until then


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as ids. `ending_ids[k]` holds candidate k's tokens, the end token included.

    truncated: tokens cut from the left of the context. endings_truncated: from the right of each ending; empty where
    none was cut. joint_differs: encoding prompt and some ending in one string would give other ids. control_tokens: the
    text itself, of prompt or endings, spells some, such as <|endoftext|>.
    """

    question: Question
    prompt_ids: list[int]
    ending_ids: list[list[int]]
    truncated: int = 0
    endings_truncated: tuple[int, ...] = ()
    joint_differs: bool = False
    control_tokens: bool = False

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


def neutral_prompt_ids(tokenizer, config: PromptConfig) -> list[int]:
    """The ids of what stands for the question where an ending is scored without one."""
    ids = tokenizer(neutral_prompt(config.template), add_special_tokens=False)["input_ids"]
    return ([tokenizer.bos_token_id] if config.start_token else []) + ids


def encode_questions(
    questions: Sequence[Question], tokenizer, config: PromptConfig, *, strict: bool = False
) -> list[EncodedQuestion]:
    """Encode questions by the contract above.

    A text that spells a control token is encoded as one, as Hugging Face's tokenizers do by default: it is counted.
    Raises InputError for an empty prompt, for a template that leaves no room, and with `strict` for an ending that
    would be cut.
    """
    config.check_tokenizer(tokenizer)
    known: dict[int, int] = {}  # one Python integer a token id, not one a token: a fifth of the memory
    # tokenizer(...) gives the same ids in twice the time, since it also tells where in the text each token stands.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def encode(texts: Sequence[str], description: str | None = None) -> list[list[int]]:
        starts = range(0, len(texts), BATCH)
        if description:
            starts = progress(starts, desc=description, unit="text", unit_scale=BATCH, delay=BRIEF)
        rows = []
        for start in starts:
            batch = backend.encode_batch_fast([*texts[start : start + BATCH]], add_special_tokens=False)
            rows += [list(map(known.setdefault, ids, ids)) for ids in (encoding.ids for encoding in batch)]
        return rows

    start = [tokenizer.bos_token_id] if config.start_token else []
    end = [tokenizer.eos_token_id] if config.end_token else []
    control = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    pieces = [render(config.template, question) for question in questions]
    texts = ["".join(piece) for piece in pieces]
    prompts = encode(texts, "encoding prompts")
    differs = _joint_differs(texts, questions, encode)
    # Class names are the same for every question, and many a wrong ending is right elsewhere.
    endings = list(dict.fromkeys(ending for question in questions for ending in question.endings))
    ids_of = dict(zip(endings, encode([*map(ending_text, endings)], "encoding endings"), strict=True))
    encoded = []
    for number, (question, piece, prompt_ids) in enumerate(zip(questions, pieces, prompts, strict=True)):
        bare_ids = [ids_of[ending] for ending in question.endings]
        whole = EncodedQuestion(
            question,
            start + prompt_ids,
            [ids + end for ids in bare_ids],
            joint_differs=differs[number],
            control_tokens=any(not control.isdisjoint(ids) for ids in (prompt_ids, *bare_ids)),
        )
        fitted = _fit(whole, config, lambda piece=piece: encode(piece))
        if strict and fitted.endings_truncated:
            _refuse_cut(fitted)
        encoded.append(fitted)
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


def _fit(whole: EncodedQuestion, config: PromptConfig, encode_pieces) -> EncodedQuestion:
    """The question within the contract's limits."""
    source = whole.question.source
    prompt_ids, ending_ids, truncated = whole.prompt_ids, whole.ending_ids, 0
    if not prompt_ids:
        raise InputError(f"{source}: the prompt is empty; the first ending token needs one to follow")
    if not all(ending_ids):
        nothing = [len(ids) for ids in ending_ids].index(0)
        raise InputError(
            f"{source}: candidate {nothing} has no tokens; close endings with --end-token, or leave it out"
        )
    longest = max(map(len, ending_ids))
    if config.max_ending is not None:
        longest = min(longest, config.max_ending)
    if len(prompt_ids) + longest > config.max_length:
        # The pieces are encoded apart only here, so that the cut knows where the context lies among the ids.
        prefix_ids, body_ids, suffix_ids = encode_pieces()
        prefix_ids = prompt_ids[: config.start_token] + prefix_ids
        room = config.max_length - len(prefix_ids) - len(suffix_ids)
        if config.max_ending is not None:
            longest = min(longest, max(1, room - min(KEPT_CONTEXT, len(body_ids), room // 2)))
        if longest > room:
            needed = config.max_length - room + longest
            raise InputError(
                f"{source}: endings and template need {needed} tokens, over --max-length {config.max_length}; raise it"
            )
        truncated = max(0, len(body_ids) + longest - room)
        prompt_ids = prefix_ids + body_ids[truncated:] + suffix_ids
        if not prompt_ids:
            raise InputError(f"{source}: --max-length {config.max_length} leaves nothing of the prompt; raise it")
    cut = tuple(max(0, len(ids) - longest) for ids in ending_ids)
    if any(cut):
        ending_ids = [ids[:longest] for ids in ending_ids]
    return replace(
        whole,
        prompt_ids=prompt_ids,
        ending_ids=ending_ids,
        truncated=truncated,
        endings_truncated=cut if any(cut) else (),
    )


def _refuse_cut(item: EncodedQuestion) -> None:
    index = next(index for index, cut in enumerate(item.endings_truncated) if cut)
    kept = len(item.ending_ids[index])
    raise InputError(
        f"{item.question.source}: candidate {index} has {kept + item.endings_truncated[index]} tokens, room is for "
        f"{kept}; raise --max-ending and --max-length, or leave out --strict to cut it on its right"
    )


def report_encoding(dataset: Dataset, encoded: Sequence[EncodedQuestion]) -> list[str]:
    """What a reader must know of the questions as they were encoded: one line each, only where there is something."""
    counts = {
        "cut on the left of the context to fit --max-length": sum(item.truncated > 0 for item in encoded),
        "with an ending cut on its right to fit --max-ending": sum(bool(item.endings_truncated) for item in encoded),
        "whose joint encoding differs at the boundary": sum(item.joint_differs for item in encoded),
        "whose text spells control tokens, which are read as such": sum(item.control_tokens for item in encoded),
        "with an empty ending": dataset.num_empty,
        "with two equal endings": dataset.num_equal,
    }
    lines = [f"{dataset.source}: {len(encoded)} questions, {sum(item.num_tokens for item in encoded)} packed tokens"]
    return lines + [f"  {count} {what}" for what, count in counts.items() if count]
