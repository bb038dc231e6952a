"""Log-probs of endings after the neutral prompt, which pmi sets theirs after the question's own against."""

from collections.abc import Callable, Sequence

from lib.packed.inference import Logprobs
from lib.questions.data import Question
from lib.questions.prompt import EncodedQuestion, neutral_prompt_ids
from lib.questions.prompt_config import PromptConfig

ROW_TOKENS = 256  # of the endings that share one neutral prompt: rows of one length, so that padding costs little


def neutral_logprobs(
    encoded: Sequence[EncodedQuestion],
    tokenizer,
    config: PromptConfig,
    score: Callable[[list[EncodedQuestion]], Logprobs],
) -> Logprobs:
    """Log-probs of every candidate of every question after the neutral prompt, by `score`, which gives those of packed
    rows. The prompt is the same for every question, so each ending is read once however often it occurs, and as many as
    fit share a row."""
    prompt_ids = neutral_prompt_ids(tokenizer, config)
    distinct = sorted({tuple(ids) for item in encoded for ids in item.ending_ids}, key=lambda ids: (len(ids), ids))
    nobody = Question("", {}, (), (), 0, "neutral prompt")
    groups: list[list[list[int]]] = [[]]
    for ids in distinct:
        if groups[-1] and sum(map(len, groups[-1])) + len(ids) > ROW_TOKENS:
            groups.append([])
        groups[-1].append(list(ids))
    rows = [EncodedQuestion(nobody, prompt_ids, group) for group in groups]
    of = dict(zip(distinct, (value for row in score(rows) for value in row), strict=True))
    return [[of[tuple(ids)] for ids in item.ending_ids] for item in encoded]
