"""Rewards from words: token F1 by hand, and what they make of questions."""

import pytest
from conftest import CASEHOLD, needs_casehold, rows

from lib.questions.data import load_split
from lib.training.negatives import training_questions
from lib.training.rewards import similarity_rewards, token_f1


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("the tenant may rescind", "the tenant may rescind", 1.0),
        ("The TENANT, may rescind.", "the tenant may rescind", 1.0),
        ("the tenant must rescind", "the tenant may rescind", 0.75),
        ("the the the", "the tenant", 2 * 1 / 5),  # a word is common as often as both have it
        ("a minor", "the tenant may rescind", 0.0),
        ("", "the tenant", 0.0),
    ],
)
def test_token_f1_by_hand(text, gold, expected):
    assert token_f1(text, gold) == token_f1(gold, text) == pytest.approx(expected)


def test_the_gold_stays_the_best_even_against_its_own_words_in_another_order(encode):
    row = {"context": "c", "endings": ["the seller paid the buyer", "the buyer paid the seller", "no"], "label": 1}
    [question] = similarity_rewards([encode([row])[0].question])
    assert question.rewards[1] == 1.0 > question.rewards[0] > 0.999 and question.rewards[2] == 0.0
    [item], _ = training_questions(encode([row]))
    assert item.positives == (1,)


def test_rewards_are_f1_with_the_gold(encode):
    for question in similarity_rewards([item.question for item in encode(rows(5))]):
        gold = question.endings[question.label]
        expected = [1.0 if ending == gold else token_f1(ending, gold) for ending in question.endings]
        assert list(question.rewards) == expected and max(expected[:-1]) > 0 and len(set(expected)) > 2


@needs_casehold
def test_on_casehold_the_gold_is_best_and_rewards_differ():
    questions = similarity_rewards(load_split(str(CASEHOLD), "train", limit=200).questions)
    assert all(question.rewards.index(max(question.rewards)) == question.label for question in questions)
    assert all(len(set(question.rewards)) > 2 for question in questions)
