"""From log-probs to choices: the five scores, and one prediction record a question.

sum     log-prob of the ending, all its tokens
mean    the same a token
bytes   the same a UTF-8 byte, which does not depend on the tokenizer
pmi     less the ending's log-prob after the neutral prompt (Holtzman et al. 2021, domain-conditional PMI)
reward  less the ending's log-prob under the reference: the log-ratio, which S-DPO trains
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.packed.inference import Logprobs
from lib.questions.prompt import EncodedQuestion, num_bytes

SCORES = ("sum", "mean", "bytes", "pmi", "reward")


@dataclass(frozen=True)
class Scored:
    """What a model said of some questions. `neutral` (after the neutral prompt) and `reference` (under the reference)
    are there where a score asks for them; `token_logprobs[b][k]` lists those of candidate k's tokens. `contract`: the
    digest of the prompt contract."""

    encoded: Sequence[EncodedQuestion]
    logprobs: Logprobs
    neutral: Logprobs | None = None
    reference: Logprobs | None = None
    token_logprobs: list[list[list[float]]] | None = None
    contract: str | None = None

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that can be computed."""
        lacking = {"pmi": self.neutral is None, "reward": self.reference is None}
        return tuple(score for score in SCORES if not lacking.get(score))

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracy by each score, the best one first: by log-prob alone one may see nothing learnt where pmi sees
        much."""
        values = {score: float(is_correct(self.predictions(score)).mean()) for score in self.scores}
        return dict(sorted(values.items(), key=lambda entry: -entry[1]))

    def predictions(self, score: str) -> list[dict]:
        """One record a question in the shared prediction format, chosen by `score`. Log-probs that the score sets
        them against stand beside the log-probs; no others do."""
        against = {"pmi": ("neutral_logprobs", self.neutral), "reward": ("reference_logprobs", self.reference)}
        name, others = against.get(score, (None, None))
        records = []
        for index, (item, values) in enumerate(zip(self.encoded, self.logprobs, strict=True)):
            record = {
                "id": item.question.id,
                "prediction": 0,
                "label": item.question.label,
                "score": score,
                "logprobs": list(values),
                **({name: list(others[index])} if name else {}),
                "tokens": [len(ids) for ids in item.ending_ids],
                "bytes": [num_bytes(ending) for ending in item.question.endings],
                "truncated": item.truncated,
                **({"endings_truncated": list(item.endings_truncated)} if item.endings_truncated else {}),
                **({"contract": self.contract} if self.contract else {}),
            }
            records.append(record | {"prediction": choose(score_values(record))})
        return records


def score_values(record: dict) -> list[float]:
    """What the record's candidates are compared by, one number each: its log-probs less those they are set against
    (neutral or reference), over the unit that its score names."""
    values = record["logprobs"]
    for field in ("neutral_logprobs", "reference_logprobs"):
        if field in record:
            values = [value - other for value, other in zip(values, record[field], strict=True)]
    unit = {"mean": "tokens", "bytes": "bytes"}.get(record["score"])
    return [value / count for value, count in zip(values, record[unit], strict=True)] if unit else list(values)


def choose(values: Sequence[float]) -> int:
    """Index of the largest value; the first wins a tie."""
    return max(range(len(values)), key=values.__getitem__)


def is_correct(records: Sequence[dict]) -> np.ndarray:
    """Whether each record's choice is its label, as booleans [N]."""
    return np.array([record["prediction"] == record["label"] for record in records])
