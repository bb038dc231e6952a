"""Which candidates are drawn: seeded, per question and epoch, never an empty or an equal one."""

from conftest import rows, write_jsonl

from lib.data import load_split
from lib.negatives import draw_candidates, epoch_order, training_questions


def graded(prompt: str, **scored: float) -> dict:
    return {"prompt": prompt, "responses": list(scored), "scores": list(scored.values())}


def test_draws_hold_the_positive_and_change_with_epoch_and_seed(encode):
    questions, dropped = training_questions(encode(rows(30)))
    assert len(questions) == 30 and not dropped
    first = [draw_candidates(item, 2, seed=0, epoch=0) for item in questions]
    assert first == [draw_candidates(item, 2, seed=0, epoch=0) for item in questions]
    assert first != [draw_candidates(item, 2, seed=0, epoch=1) for item in questions]
    assert first != [draw_candidates(item, 2, seed=1, epoch=0) for item in questions]
    for item, drawn in zip(questions, first, strict=True):
        assert item.positive in drawn and len(set(drawn)) == 3 and drawn == sorted(drawn)
    drawn_once = {index for item in questions for e in range(20) for index in draw_candidates(item, 1, seed=0, epoch=e)}
    assert drawn_once == set(range(5))


def test_a_question_with_fewer_negatives_uses_all(encode):
    [item], _ = training_questions(encode(rows(1, num_candidates=3)))
    assert draw_candidates(item, 4, seed=0, epoch=0) == [0, 1, 2]


def test_empty_and_equal_negatives_are_dropped_and_a_spoilt_gold_drops_the_question(encode):
    spoilt, empty_gold, equal_gold = rows(3)
    spoilt["label"], equal_gold["label"] = 4, 0
    spoilt["endings"][0], spoilt["endings"][2] = " \n", spoilt["endings"][1] + " "
    empty_gold["endings"][empty_gold["label"]] = ""
    equal_gold["endings"][3] = equal_gold["endings"][0]
    questions, dropped = training_questions(encode([spoilt, empty_gold, equal_gold]))
    assert [(item.positive, item.negatives) for item in questions] == [(4, (1, 3))]
    assert sum(count for what, count in dropped.items() if what.startswith("questions")) == 2
    assert sum(count for what, count in dropped.items() if what.startswith("negatives")) == 2


def test_graded_positives_lie_above_the_mean_of_the_whole_question(encode, tmp_path):
    encoded = encode([graded("p", a=9.0, b=7.0, c=1.0, d=0.0), graded("q", a=5.0, b=5.0)])
    questions, dropped = training_questions(encoded)
    assert [(item.positive, item.negatives) for item in questions] == [(0, (2, 3))]
    assert sum(dropped.values()) == 1


def test_an_epoch_visits_every_question_once():
    order = epoch_order(100, seed=3, epoch=1)
    assert sorted(order) == list(range(100)) and list(order) != list(epoch_order(100, seed=3, epoch=2))


def test_ids_make_the_draw_independent_of_the_order_of_the_file(tmp_path, encode):
    forwards, _ = training_questions(encode(rows(8)))
    backwards, _ = training_questions(encode(rows(8)[::-1]))
    draws = [
        {item.encoded.question.id: draw_candidates(item, 2, 0, 0) for item in half} for half in (forwards, backwards)
    ]
    assert draws[0] == draws[1]
    assert load_split(str(write_jsonl(tmp_path / "x.jsonl", rows(8))), "train").questions[0].id == "q0"
