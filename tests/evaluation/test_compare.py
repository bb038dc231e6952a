"""Comparing prediction files: the paired test, who wins where, and what is refused."""

import json

import numpy as np
import pytest
from conftest import write_jsonl
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

import eval_mc
from lib.errors import InputError
from lib.evaluation.compare import compare, differing, mcnemar, read_aligned, wins


def record(number: int, label: int, chosen: int, **changes) -> dict:
    values = [-4.0 - (index != chosen) for index in range(3)]
    made = {"id": f"q{number}", "prediction": chosen, "label": label, "score": "sum", "logprobs": values}
    return made | {"tokens": [2, 3, 4], "bytes": [7, 8, 9 + number], "truncated": 0} | changes


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[dict], list[dict]]:
    right = [(1, 1)] * both + [(1, 0)] * only_a + [(0, 1)] * only_b + [(0, 0)] * neither
    a, b = ([record(n, 1, 1 if side else 2) for n, side in enumerate(column)] for column in zip(*right, strict=True))
    return a, b


@pytest.mark.parametrize("counts", [(10, 2), (0, 0), (1, 6), (40, 40), (0, 5), (31, 12)])
def test_mcnemar_equals_statsmodels(counts):
    expected = statsmodels_mcnemar([[50, counts[0]], [counts[1], 20]], exact=True).pvalue
    assert mcnemar(*counts) == pytest.approx(min(1.0, expected))


def test_mcnemar_has_the_known_answers():
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)  # five coins that all fall one way
    assert mcnemar(3, 3) == 1
    assert mcnemar(1, 6) == pytest.approx(2 * (1 + 7) / 2**7)


def test_the_difference_is_paired():
    a, b = pair(both=60, only_a=5, only_b=15, neither=20)
    found = compare(a, b)
    assert (found.only_a, found.only_b) == (5, 15)
    assert found.difference == pytest.approx(0.10)
    low, high = found.interval
    # Normal approximation of the paired difference; two unpaired accuracies would give +-0.126.
    half = 1.96 * np.sqrt((0.20 - 0.10**2) / 100)
    assert (low, high) == pytest.approx((0.10 - half, 0.10 + half), abs=0.015)
    assert compare(a, a).interval == (0, 0) and compare(a, a).p_value == 1


def test_who_wins_where_counts_every_question_once():
    a, b = pair(both=6, only_a=2, only_b=3, neither=4)
    for groups in wins(a, b).values():
        assert sum(total for _, total, _, _ in groups) == 15
        assert (sum(one for *_, one, _ in groups), sum(other for *_, other in groups)) == (2, 3)
    assert [row["id"] for row in differing(a, b)] == ["q6", "q7", "q8", "q9", "q10"]


def files(tmp_path, *contents) -> list:
    return [write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in zip("abcdef", contents, strict=False)]


def test_order_does_not_matter_and_all_files_are_set_against_the_first(tmp_path, capsys):
    a, b = pair(both=6, only_a=2, only_b=3, neither=4)
    paths = files(tmp_path, a, b[::-1], a)
    output = tmp_path / "differ.jsonl"
    assert eval_mc.main(["--compare", *map(str, paths), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "B - A: +6.67 points" in printed and "C - A: +0.00 points" in printed and "not corrected" in printed
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q6", "q7", "q8", "q9", "q10"]


def test_questions_that_a_file_could_not_score_are_left_out_of_all_and_named(tmp_path, capsys):
    a, b = pair(both=6, only_a=2, only_b=3, neither=4)
    b[0] = {"id": "q0", "error": "line 1: field 'endings' is missing"}
    paths = files(tmp_path, a, b)
    records, _ = read_aligned(paths)
    assert [len(rows) for rows in records] == [14, 14]
    eval_mc.main(["--compare", *map(str, paths)])
    assert f"left out: question q0, which {paths[1]} could not score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), "not over the same questions: 1 stand in one of them alone, such as id 'q14'"),
        (lambda rows: rows[3].update(id="other"), "not over the same questions: 2 stand"),
        (lambda rows: rows[3].update(label=0), "question 'q3': field 'label': 1 and 0"),
        (lambda rows: rows[3].update(bytes=[7, 8, 99]), r"question 'q3': field 'bytes': \[7, 8, 12\]"),
    ],
)
def test_other_questions_are_refused(tmp_path, change, message):
    a, b = pair(both=6, only_a=2, only_b=3, neither=4)
    change(b)
    with pytest.raises(InputError, match=message):
        read_aligned(files(tmp_path, a, b))


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"label": None}, "label", "is missing; accuracy needs labelled questions"),
        ({"id": 7}, "id", "7 is not a string"),
        ({"id": "q0"}, "id", "stands in an earlier line"),
        ({"prediction": 3}, "prediction", "names none of the 3 candidates"),
        ({"prediction": 0}, "prediction", "0, but by sum its log-probs choose 1"),
        ({"label": True}, "label", "names none of"),
        ({"logprobs": [-1.0]}, "logprobs", "2 or more"),
        ({"logprobs": [-1.0, float("nan"), -2.0]}, "logprobs", "not a list of 3 finite numbers"),
        ({"logprobs": [-1.0, 10**400, -2.0]}, "logprobs", "not a list of 3 finite numbers"),
        ({"reference_logprobs": [-1.0, -2.0]}, "reference_logprobs", "not a list of 3 finite numbers"),
        ({"tokens": [1, 0, 2]}, "tokens", "not a list of 3 integers from 1"),
        ({"truncated": -1}, "truncated", "not a count"),
        ({"score": "best"}, "score", "none of sum, mean, bytes, pmi, reward"),
        ({"score": "pmi"}, "neutral_logprobs", "is missing"),
    ],
)
def test_a_broken_record_is_named_by_file_line_and_field(tmp_path, changes, field, message):
    a, b = pair(both=3, only_a=0, only_b=0, neither=0)
    a[2].update(changes)
    if changes.get("label", 0) is None:
        del a[2]["label"]
    paths = files(tmp_path, a, b)
    with pytest.raises(InputError, match=message) as caught:
        read_aligned(paths)
    assert str(caught.value).startswith(f"{paths[0]}:3: field '{field}'")


def test_one_file_is_nothing_to_compare(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        eval_mc.main(["--compare", str(tmp_path / "a.jsonl")])
    assert left.value.code == 2 and "2 to 26 prediction files" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such file"):
        eval_mc.main(["--compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def test_flags_that_compare_would_pass_over_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        eval_mc.main(["--compare", "a.jsonl", "b.jsonl", "--score", "pmi"])
    assert left.value.code == 2 and "--score is of one model's answers" in capsys.readouterr().err
