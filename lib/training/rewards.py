"""Rewards made from the candidates' words, for data that only says which one is right."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lib.questions.baselines import words
from lib.questions.data import Question

REWARDS = ("data", "similarity")


def similarity_rewards(questions: Sequence[Question]) -> list[Question]:
    """The questions with reward 1 for the gold and its `token_f1` with the gold for every other candidate, whatever
    the data's rewards were: a near-miss is less wrong than a stranger. The same words in another order stay below 1."""
    below_gold = math.nextafter(1.0, 0.0)
    return [
        replace(
            question,
            rewards=tuple(
                1.0 if index == question.label else min(token_f1(ending, question.endings[question.label]), below_gold)
                for index, ending in enumerate(question.endings)
            ),
        )
        for question in questions
    ]


def token_f1(text: str, gold: str) -> float:
    """Harmonic mean of the two texts' shares of common words, repeated words counted, without case (the F1 of
    Rajpurkar et al. 2016, "SQuAD"); 0 where no word is common."""
    ours, theirs = Counter(words(text)), Counter(words(gold))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0
