"""A language model as judge of answers: pairs in both orders, what the judge is asked and says, and who wins.

A judge favours a place, most often the first (position bias, Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench
and Chatbot Arena", https://arxiv.org/abs/2306.05685). As there, it sees each pair in both orders; an answer that is
preferred in both wins, and whatever else it says of the two is a tie.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import InputError
from lib.evaluation.compare import mcnemar
from lib.evaluation.metrics import wilson_interval
from lib.questions.data import STRIP, Dataset, Question
from lib.questions.fields import fail, show, string_of, value_of
from lib.questions.readers import read_rows
from lib.questions.template import render

ORDERS = ("12", "21")  # which answer is shown as A, and which as B
VERDICTS = ("A", "B", "tie")

# The whole prompt, as one message: not every model's chat template has a place for a system's.
JUDGE_PROMPT = """\
You are an impartial judge of legal writing. The passage below is from a court's opinion. It cites a case, and \
<HOLDING> stands where it says what that case held. Two answers, A and B, each propose what stood there.

Decide which answer states the masked holding better: the one that fits the passage and the point for which the case \
is cited, and that is precise and sound in law. Neither the order of the answers nor their length nor their style may \
sway you.

<passage>
{passage}
</passage>

<answer_a>
{a}
</answer_a>

<answer_b>
{b}
</answer_b>

Reply with one JSON object and nothing else: {{"verdict": "A"}} if answer A is better, {{"verdict": "B"}} if \
answer B is better, {{"verdict": "tie"}} if neither is.
"""
# Closes the prompt the second time: at temperature 0 the same words would bring the same reply.
REMINDER = """
A program reads your reply: {"verdict": "A"}, {"verdict": "B"} or {"verdict": "tie"}, and no other text.
"""


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, stripped of white space at their ends; the second may be the gold ending."""

    id: str
    passage: str
    texts: tuple[str, str]

    @property
    def is_equal(self) -> bool:
        """Whether there is nothing to judge."""
        return self.texts[0] == self.texts[1]


def read_answers(path: Path, data: Dataset) -> dict[str, str | None]:
    """The answer to each question of a JSON lines file, by the question's id: its `text`, or in predictions the ending
    that was chosen; None for a prediction that could not be made (a record with `error`).

    Raises InputError with file, line and field for what is not in the form, for an id that stands twice or is no
    question of `data`, and for predictions on other questions.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; --answers takes JSON lines with id and text, or eval_mc.py's --output")
    questions = {question.id: question for question in data.questions}
    answers: dict[str, str | None] = {}
    for line, row in read_rows(path):
        where, name = f"{path}:{line}", value_of(f"{path}:{line}", row, "id")
        if isinstance(name, bool) or not isinstance(name, str | int):
            fail(where, "id", f"{show(name)} is not a string or an integer")
        name = str(name)
        if name in answers:
            fail(where, "id", f"{show(name)} stands in an earlier line; give each question one answer")
        if name not in questions:
            fail(where, "id", f"{show(name)} is no question of {data.source}; name theirs with --data and --split")
        answers[name] = None if "error" in row else _answer(where, row, questions[name])
    return answers


def _answer(where: str, row: dict, question: Question) -> str:
    if "text" in row:
        return string_of(where, row, "text").strip(STRIP)
    if "prediction" not in row:
        fail(where, "text", "is missing; a line has id and text, or is a prediction of eval_mc.py")
    chosen, count = row["prediction"], len(question.endings)
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < count:
        fail(where, "prediction", f"{show(chosen)} names none of the {count} candidates (0 to {count - 1})")
    label = row.get("label", question.label)
    if label != question.label:
        fail(where, "label", f"{show(label)}, but {question.source} has {question.label}; these are other questions")
    return question.endings[chosen].strip(STRIP)


def make_pairs(data: Dataset, answers: Sequence[Mapping[str, str | None]]) -> list[Pair]:
    """The questions that every file answers, in the order of the data; one file alone is set beside the gold endings.

    Raises InputError where no question is left.
    """
    gold = {question.id: question.endings[question.label].strip(STRIP) for question in data.questions}
    first, second = answers if len(answers) == 2 else (*answers, gold)
    pairs = [
        Pair(question.id, "".join(render(data.default_template, question)), texts)
        for question in data.questions
        if None not in (texts := (first.get(question.id), second.get(question.id)))
    ]
    if not pairs:
        raise InputError(f"{data.source}: --answers: no question is answered in every file; there is nothing to judge")
    return pairs


def judge_prompt(pair: Pair, order: str) -> str:
    """What the judge is asked: the passage, and the answers as A and B in one of `ORDERS`, without their origin."""
    a, b = (pair.texts[int(number) - 1] for number in order)
    return JUDGE_PROMPT.format(passage=pair.passage, a=a, b=b)


def parse_verdict(said: str) -> str | None:
    """One of `VERDICTS`, where the reply is that alone or a JSON object with it as `verdict`; else None."""
    said = said.strip()
    if said in VERDICTS:
        return said
    try:
        reply = json.loads(said)
    except (ValueError, RecursionError):
        return None
    verdict = reply.get("verdict") if isinstance(reply, dict) else None
    return verdict if verdict in VERDICTS else None


@dataclass(frozen=True)
class Outcome:
    """Questions by what the judge said of them.

    wins: preferred in both orders, the first answer and the second. ties: neither, in both orders. equal: the same
    text twice, which no judge is asked about. favours_a, favours_b: whichever answer stood in that place was preferred;
    one_order: one was, in one order alone. These three are inconsistent. no_verdict: a reply could not be parsed.
    """

    wins: tuple[int, int]
    ties: int
    equal: int
    favours_a: int
    favours_b: int
    one_order: int
    no_verdict: int

    @property
    def inconsistent(self) -> int:
        return self.favours_a + self.favours_b + self.one_order

    @property
    def judged(self) -> int:
        return sum(self.wins) + self.ties + self.equal + self.inconsistent

    @property
    def win_rate(self) -> float:
        """Of the first answer, over the judged questions: a win counts 1, every kind of tie 1/2."""
        return (self.wins[0] + (self.judged - sum(self.wins)) / 2) / self.judged

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the win rate: Wilson's, which ties leave wider than need be, since a share of halves varies
        less than one of 0 and 1. Unlike the bootstrap's it has a width where all questions end alike."""
        low, high = wilson_interval(self.win_rate * self.judged, self.judged)
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Two-sided exact sign test of the wins, which is the exact McNemar test."""
        return mcnemar(*self.wins)


def outcome(pairs: Sequence[Pair], judgements: Mapping[tuple[str, str], dict]) -> Outcome:
    """What became of the pairs. judgements: by id and order, each with a `verdict`, None where there is none; both
    orders of every pair whose texts differ."""
    counts = Counter(_kind(pair, judgements) for pair in pairs)
    named = {kind: counts[kind] for kind in ("ties", "equal", "favours_a", "favours_b", "one_order", "no_verdict")}
    return Outcome(wins=(counts["1"], counts["2"]), **named)


def _kind(pair: Pair, judgements: Mapping[tuple[str, str], dict]) -> str:
    if pair.is_equal:
        return "equal"
    verdicts = [judgements[pair.id, order]["verdict"] for order in ORDERS]
    if None in verdicts:
        return "no_verdict"
    if verdicts[0] == verdicts[1]:
        return {"A": "favours_a", "B": "favours_b", "tie": "ties"}[verdicts[0]]
    return "one_order" if "tie" in verdicts else ORDERS[0]["AB".index(verdicts[0])]
