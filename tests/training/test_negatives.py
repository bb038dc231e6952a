"""Which candidates are drawn: seeded, per question and epoch, never an empty or an equal one."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import permutations

import pytest
import torch
from conftest import rows, tiny_model, write_jsonl

import train_sdpo
from lib.packed.inference import score_questions, start_accelerator
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import load_split
from lib.questions.prompt_config import PromptConfig
from lib.training.negatives import Sampling, draw_candidates, epoch_order, training_questions
from lib.training.preparation import with_reference
from lib.training.recipe import make_recipe


def best_and(num_negatives: int, seed: int = 0, **options) -> Sampling:
    return Sampling(num_negatives, all_positives=False, seed=seed, **options)


def graded(prompt: str, **scored: float) -> dict:
    return {"prompt": prompt, "responses": list(scored), "scores": list(scored.values())}


def test_draws_hold_the_positive_and_change_with_epoch_and_seed(encode):
    questions, dropped = training_questions(encode(rows(30)))
    assert len(questions) == 30 and not dropped
    first = [draw_candidates(item, best_and(2), epoch=0) for item in questions]
    assert first == [draw_candidates(item, best_and(2), epoch=0) for item in questions]
    assert first != [draw_candidates(item, best_and(2), epoch=1) for item in questions]
    assert first != [draw_candidates(item, best_and(2, seed=1), epoch=0) for item in questions]
    for item, drawn in zip(questions, first, strict=True):
        assert item.positives[0] in drawn and len(set(drawn)) == 3 and drawn == sorted(drawn)
    drawn_once = {
        index for item in questions for e in range(20) for index in draw_candidates(item, best_and(1), epoch=e)
    }
    assert drawn_once == set(range(5))


def test_a_question_with_fewer_negatives_uses_all(encode):
    [item], _ = training_questions(encode(rows(1, num_candidates=3)))
    assert draw_candidates(item, best_and(4), epoch=0) == [0, 1, 2]


def test_empty_and_equal_negatives_are_dropped_and_a_spoilt_gold_drops_the_question(encode):
    spoilt, empty_gold, equal_gold = rows(3)
    spoilt["label"], equal_gold["label"] = 4, 0
    spoilt["endings"][0], spoilt["endings"][2] = " \n", spoilt["endings"][1] + " "
    empty_gold["endings"][empty_gold["label"]] = ""
    equal_gold["endings"][3] = equal_gold["endings"][0]
    questions, dropped = training_questions(encode([spoilt, empty_gold, equal_gold]))
    assert [(item.positives, item.negatives) for item in questions] == [((4,), (1, 3))]
    assert sum(count for what, count in dropped.items() if what.startswith("questions")) == 2
    assert sum(count for what, count in dropped.items() if what.startswith("negatives")) == 2


def test_graded_positives_lie_above_the_mean_of_the_whole_question(encode, tmp_path):
    encoded = encode([graded("p", a=9.0, b=7.0, c=1.0, d=0.0), graded("q", a=5.0, b=5.0)])
    questions, dropped = training_questions(encoded)
    assert [(item.positives, item.negatives, item.mean) for item in questions] == [((0, 1), (2, 3), 4.25)]
    assert sum(dropped.values()) == 1


def test_equal_rewards_are_no_positives_whatever_their_sum_rounds_to(encode):
    questions, dropped = training_questions(encode([graded("p", a=0.3, b=0.3, c=0.3)]))
    assert not questions and dropped.total() == 1


def test_all_positives_or_the_best_alone(encode):
    [item], _ = training_questions(encode([graded("p", a=7.0, b=1.0, c=9.0, d=0.0, e=2.0)]))
    for epoch in range(5):
        best = draw_candidates(item, best_and(2), epoch)
        every = draw_candidates(item, Sampling(2, all_positives=True, seed=0), epoch)
        assert 2 in best and 0 not in best and len(best) == 3
        assert set(every) == {0, *best}
    assert draw_candidates(item, best_and(0), 0) == [2]


def test_a_positive_that_equals_a_better_one_or_a_negative_that_equals_a_positive_is_dropped(encode):
    row = {"prompt": "p", "responses": ["x", "best", "best ", "x", "y", ""], "scores": [8.0, 9.0, 7.0, 0.0, 0.0, 6.0]}
    [item], dropped = training_questions(encode([row]))
    assert (item.positives, item.negatives) == ((1, 0), (4,))
    assert dropped == {
        "other positives that are empty or stand twice": 2,
        "negatives that are empty or stand twice": 1,
    }


def test_hard_negatives_follow_the_references_pmi(encode):
    [item], _ = training_questions(encode(rows(1)))
    best = item.positives[0]
    pmi = [-10.0, -30.0, -20.0, -40.0, -50.0]
    likeliest = sorted(item.negatives, key=lambda index: -pmi[index])[:2]
    item = replace(item, pmi=pmi)
    cold = [draw_candidates(item, best_and(2, negatives="hard", temperature=1e-3), epoch) for epoch in range(20)]
    assert all(drawn == sorted([best, *likeliest]) for drawn in cold)
    hard = best_and(2, negatives="hard", temperature=20.0)
    drawn = [draw_candidates(item, hard, epoch) for epoch in range(20)]
    assert drawn == [draw_candidates(item, hard, epoch) for epoch in range(20)]
    assert len(set(map(tuple, drawn))) > 1 and all(best in one and len(set(one)) == 3 for one in drawn)


def test_hard_negatives_have_the_odds_of_drawing_without_replacement(encode):
    """Against every order of drawing two of four, one after the other by exp(pmi / temperature)."""
    [item], _ = training_questions(encode(rows(1)))
    pmi = [0.0, 0.0, 0.0, 0.0, 0.0]
    for rank, index in enumerate(item.negatives):
        pmi[index] = -7.0 * rank
    odds = {index: math.exp(pmi[index] / 10.0) for index in item.negatives}
    total = sum(odds.values())
    expected = Counter()
    for first, second in permutations(item.negatives, 2):
        expected[frozenset((first, second))] += odds[first] / total * odds[second] / (total - odds[first])
    count = 20_000
    item = replace(item, pmi=pmi)
    hard = best_and(2, negatives="hard", temperature=10.0)
    found = Counter(frozenset(draw_candidates(item, hard, epoch)) - {item.positives[0]} for epoch in range(count))
    for pair, share in expected.items():  # within 5 standard errors
        assert found[pair] / count == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count))


def test_the_lowest_negatives_are_those_of_lowest_reward_and_ties_go_by_lot(encode):
    """SWEPO's appendix E: the best against the lowest."""
    [item], _ = training_questions(encode([graded("p", a=7.0, b=1.0, c=9.0, d=0.5, e=0.5)]))
    drawn = {tuple(draw_candidates(item, best_and(1, negatives="lowest"), epoch)) for epoch in range(20)}
    assert drawn == {(2, 3), (2, 4)}
    assert draw_candidates(item, best_and(3, negatives="lowest"), epoch=0) == [1, 2, 3, 4]


def test_an_epoch_visits_every_question_once():
    order = epoch_order(100, seed=3, epoch=1)
    assert sorted(order) == list(range(100)) and list(order) != list(epoch_order(100, seed=3, epoch=2))


def test_ids_make_the_draw_independent_of_the_order_of_the_file(tmp_path, encode):
    forwards, _ = training_questions(encode(rows(8)))
    backwards, _ = training_questions(encode(rows(8)[::-1]))
    draws = [
        {item.encoded.question.id: draw_candidates(item, best_and(2), 0) for item in half}
        for half in (forwards, backwards)
    ]
    assert draws[0] == draws[1]
    assert load_split(str(write_jsonl(tmp_path / "x.jsonl", rows(8))), "train").questions[0].id == "q0"


@torch.no_grad()
def test_pmi_is_the_log_prob_less_that_after_the_neutral_prompt(encode, tokenizer):
    """Under the reference, each candidate in a forward of its own."""
    questions, _ = training_questions(encode(rows(3)))
    settings = vars(train_sdpo.build_parser().parse_args(["--negatives", "hard", "--loss", "listwise"]))
    model = tiny_model()
    score = partial(score_questions, PackedScorer(model), accelerator=start_accelerator("fp32"), description="")
    for item in with_reference(questions, make_recipe(settings), tokenizer, PromptConfig("{context}"), score):
        neutral = replace(item.encoded, prompt_ids=tokenizer("Answer:")["input_ids"])
        expected = unpacked_logprobs(model, item.encoded, "cpu") - unpacked_logprobs(model, neutral, "cpu")
        assert item.pmi == pytest.approx(expected.tolist(), abs=4e-4)
