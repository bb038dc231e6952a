"""The demo: questions whose answer stands in the passage, a base model that cannot tell, and a tuned one that can."""

import itertools
import re
import subprocess

import pytest
from conftest import ROOT

from lib.demo import data as demo_data
from lib.demo import model as demo_model
from lib.questions.baselines import baselines
from lib.questions.data import load_split


@pytest.fixture(scope="module")
def splits():
    return {split: load_split("demo", split).questions for split in demo_data.SPLIT_SIZES}


def test_the_holding_is_what_the_court_said_and_nothing_else(splits):
    answer_of = {words: answer for answer, phrases in demo_data.ANSWERS.items() for words in phrases}
    for question in splits["test"]:
        passage = question.fields["context"]
        said = re.findall("|".join(f"(?:{opening}) ([^.]+)\\." for opening in demo_data.VOICES["the court"]), passage)
        (words,) = [words for match in said for words in match if words]
        gold = question.endings[question.label]
        assert len(question.endings) == len(set(question.endings)) == 5
        assert f" {answer_of[words]} " in gold
        # Every distractor differs from it by the answer alone.
        stripped = {
            re.sub(f" ({'|'.join(sorted(demo_data.ANSWERS, key=len, reverse=True))}) ", " ", ending)
            for ending in question.endings
        }
        assert len(stripped) == 1


def test_what_reads_no_passage_is_at_chance(splits):
    for name, accuracy in baselines(splits["test"]).items():
        assert accuracy < 0.30, name
    labels = [question.label for question in splits["test"]]
    assert max(labels.count(label) for label in range(5)) < 0.30 * len(labels)


def test_splits_do_not_overlap(splits):
    def key(question):
        """The question of law, and the voices with their words in any order."""
        facts, *statements = question.fields["context"].split(" See ")[0].split(". ")
        return facts.split(" of a")[0], frozenset(statement.strip(".") for statement in statements)

    keys = {split: {key(question) for question in questions} for split, questions in splits.items()}
    for first, second in itertools.combinations(keys, 2):
        assert not keys[first] & keys[second]


def test_the_base_model_is_trained_the_same_every_time(monkeypatch):
    monkeypatch.setattr(demo_model, "NUM_STEPS", 3)
    texts = list(demo_data.pretraining_texts(3 * demo_model.BATCH_SIZE))
    tokenizer = demo_model.train_tokenizer(texts, demo_model.VOCAB_SIZE)
    first, second = (demo_model.pretrain(texts, tokenizer).state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_training_lifts_the_demo_from_at_most_40_to_at_least_85_percent():
    result = subprocess.run(["make", "demo"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout
    untuned, tuned, in_cpp = re.findall(r"accuracy \(sum\): (\S+)% (\[.*\] \d+ of \d+)", result.stdout)
    assert float(untuned[0]) <= 40
    assert float(tuned[0]) >= 85
    assert in_cpp == tuned
