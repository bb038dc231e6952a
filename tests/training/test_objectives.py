"""Every objective as its user runs it: what is drawn for it, what it reports, and that it learns."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from conftest import CASEHOLD, OBJECTS, SUBJECTS, VERBS, needs_casehold, rows, tiny_model, write_jsonl
from safetensors.torch import load_file

import eval_mc
import train_sdpo
from lib.models.runs import read_metrics, read_run
from lib.training import preparation
from lib.training.losses import LOSSES
from lib.training.negatives import training_questions
from lib.training.recipe import make_recipe, report_candidates

TIMINGS = {"questions_per_second", "tokens_per_second", "peak_memory_gb"}
ULTRAFEEDBACK = CASEHOLD.parent / "ultrafeedback_pairs"
NEGATIVES = {
    "random": [],
    "hard": ["--negatives", "hard"],
    "self": ["--self-negatives", 2],
    "similarity": ["--rewards", "similarity"],
    "all": ["--negatives", "hard", "--self-negatives", 2, "--rewards", "similarity"],
}
FAST = [("swepo", "all")]
ONE_STEP = ["--limit", 2, "--epochs", 1]


def graded_rows(count: int, seed: int = 0) -> list[dict]:
    """Prompts with 4 to 7 responses; the score grows with what a response repeats of the prompt, two or more of them
    lie above the mean, and some scores are equal."""
    generator = random.Random(seed)
    made = []
    for number in range(count):
        subject, verb, matter = (generator.choice(words) for words in (SUBJECTS, VERBS, OBJECTS))
        others = [words[(words.index(word) + 1) % len(words)] for words, word in _told(subject, verb, matter)]
        responses = {
            f"{subject} {verb} {matter}": 9.0,
            f"{subject} {verb} {others[2]}": 7.0,
            f"{others[0]} {verb} {matter}": 7.0,
            f"{others[0]} {verb} {others[2]}": 2.0,
            f"{others[0]} {others[1]} {others[2]}": 0.0,
            f"nobody {others[1]} anything": 0.0,
            "it depends": 1.0,
        }
        chosen = list(responses)[:2] + generator.sample(list(responses)[2:], generator.randint(2, 5))
        generator.shuffle(chosen)
        prompt = f"Case {number}: the court held that {subject} {verb} {matter}. In short:"
        made.append({"prompt": prompt, "responses": chosen, "scores": [responses[text] for text in chosen]})
    return made


def _told(*words: str) -> list[tuple[tuple[str, ...], str]]:
    return list(zip((SUBJECTS, VERBS, OBJECTS), words, strict=True))


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("graded")
    write_jsonl(folder / "train.jsonl", graded_rows(16))
    write_jsonl(folder / "validation.jsonl", graded_rows(4, seed=1))
    return folder


@pytest.fixture
def train(tmp_path, monkeypatch, model_folder):
    """Train as runs/1, runs/2 and so on in a folder of the test's own, and return the steps."""
    monkeypatch.chdir(tmp_path)
    number = 0

    def run(data: Path, *flags, model=model_folder) -> list[dict]:
        nonlocal number
        number += 1
        common = ["--model", model, "--data", data, "--learning-rate", "3e-3", "--output", f"runs/{number}"]
        assert train_sdpo.main(list(map(str, [*common, *flags]))) == 0
        metrics = [line for line in read_metrics(Path(f"runs/{number}")) if "loss" in line]
        return [{name: value for name, value in line.items() if name not in TIMINGS} for line in metrics]

    return run


def test_the_generated_set_has_several_positives():
    counts = [
        sum(score > sum(row["scores"]) / len(row["scores"]) for score in row["scores"]) for row in graded_rows(50)
    ]
    assert min(counts) >= 1 and sum(count > 1 for count in counts) > 25
    assert min(len(row["scores"]) for row in graded_rows(50)) >= 4


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_on_graded_data_and_reports_what_it_defines(train, graded, name):
    flags = ["--loss", name, "--epochs", 4, "--batch-size", 4, "--lora-dropout", 0, "--num-neg", 6]
    steps = train(graded, *flags)
    first, last = ([line["loss"] for line in part] for part in (steps[:2], steps[-2:]))
    assert sum(last) < 0.8 * sum(first)
    rewards = {"reward_chosen", "reward_rejected", "reward_accuracy", "margin"}
    assert rewards & steps[0].keys() == (rewards if LOSSES[name].reference else set())
    assert ("logprob_rejected" in steps[0]) == (name != "sft")
    assert ("logprob_accuracy" in steps[0]) == (name == "listwise")
    assert Path("runs/1/curve.png").stat().st_size > 0
    assert read_run(Path("runs/1"))["settings"]["num_neg"] == {"dpo": 1, "sft": 0}.get(name, 6)


def test_no_reference_is_computed_where_none_is_asked_for(train, data_folder, monkeypatch):
    calls = []
    compute = train_sdpo.reference_logprobs

    def counted(*args, **more):
        calls.append(args)
        return compute(*args, **more)

    monkeypatch.setattr(train_sdpo, "reference_logprobs", counted)
    monkeypatch.setattr(preparation, "write_endings", None)  # nor is anything written
    for flags in (["--loss", "listwise"], ["--loss", "sft", "--negatives", "hard", "--self-negatives", 2]):
        train(data_folder, *flags, *ONE_STEP)
    assert not calls
    train(data_folder, "--loss", "listwise", "--negatives", "hard", *ONE_STEP)
    assert len(calls) == 2  # after the question and after the neutral prompt


def test_the_best_alone_with_equal_weights_is_sdpo(train, graded):
    flags = ["--epochs", 1, "--num-neg", 2, "--limit", 6]
    sdpo = train(graded, "--loss", "sdpo", *flags)
    assert train(graded, "--loss", "swepo", "--swepo-groups", "1-vs-k", "--power", 0, *flags) == [
        pytest.approx(line, rel=1e-5, abs=1e-6) for line in sdpo
    ]
    assert train(graded, "--loss", "swepo", "--power", 0, *flags) != sdpo


def test_sft_weight_adds_the_cross_entropy_of_the_positive(train, data_folder):
    [first] = train(data_folder, "--sft-weight", 0.25, *ONE_STEP)
    assert first["loss"] == pytest.approx(math.log(5) - 0.25 * first["logprob_chosen"], rel=1e-5)


def test_swepo_says_what_its_weights_do_to_one_hot_rewards(train, data_folder, graded, capsys):
    train(data_folder, "--loss", "swepo", "--power", 2, *ONE_STEP)
    said = "rewards are one-hot: the weights shift every negative's score by one constant, "
    assert f"{said}{-2 * math.log(4):+.4f}\n" in capsys.readouterr().out
    train(data_folder, "--loss", "swepo", "--weighting", "exp", "--alpha", 2, *ONE_STEP)
    assert f"{said}{2 * (1 / 5 - 4 / 5):+.4f}\n" in capsys.readouterr().out
    train(graded, "--loss", "swepo", *ONE_STEP)
    train(data_folder, *ONE_STEP)
    assert "one-hot" not in capsys.readouterr().out


@pytest.mark.parametrize(("scores", "one_hot"), [([1, 0, -1], False), ([1, 0, 0], True), ([1, 1, 0], False)])
def test_one_reward_of_1_and_none_else_is_one_hot(encode, scores, one_hot):
    rows_of_scores = [{"prompt": "p", "responses": ["a", "b", "c"], "scores": scores}]
    questions, _ = training_questions(encode(rows_of_scores))
    settings = vars(train_sdpo.build_parser().parse_args(["--loss", "swepo"]))
    said = report_candidates(questions, make_recipe(settings))
    assert any("one-hot" in line for line in said) == one_hot


def test_drawing_hard_negatives_where_all_are_drawn_is_said(encode):
    questions, _ = training_questions(encode(rows(2)))
    said = {}
    for flags in (["--negatives", "hard"], ["--negatives", "lowest", "--num-neg", "3"], []):
        settings = vars(train_sdpo.build_parser().parse_args(flags))
        said[tuple(flags)] = "".join(report_candidates(questions, make_recipe(settings)))
    note = "note: no question has more negatives than are drawn: hard are all of them"
    assert list(said.values()) == [note, "", ""]


def test_a_constant_for_each_number_of_candidates(train, tmp_path, capsys):
    data = write_jsonl(tmp_path / "mixed.jsonl", rows(1) + rows(1, num_candidates=3, start=4))
    train(data, "--loss", "swepo", "--epochs", 1)
    assert f"constant, {-math.log(4):+.4f} or {-math.log(2):+.4f}\n" in capsys.readouterr().out


def test_flags_without_effect_are_named(tmp_path, capsys):
    weights = ["--beta", "0.5", "--power", "2"]
    drawn = ["--negatives", "hard", "--hard-temperature", "5", "--self-negatives", "4"]
    note = "note: without effect under the other settings: "
    for loss, flags, said in (
        ("listwise", weights, f"{note}--beta, --power\n"),
        ("sft", drawn, f"{note}--hard-temperature, --negatives, --self-negatives\n"),
        ("swepo", weights, ""),
    ):
        with train_sdpo.claim(["--loss", loss, *flags, "--output", str(tmp_path / "x")]):
            assert capsys.readouterr().out == said


def test_sft_first_then_preference_from_there(train, data_folder, capsys):
    train(data_folder, "--loss", "sft", "--epochs", 1)
    [first, *_, last] = train(data_folder, "--epochs", 1, model="runs/1")
    assert first["loss"] == pytest.approx(math.log(5), abs=1e-4)
    assert abs(first["reward_chosen"]) < 1e-4 and abs(first["reward_rejected"]) < 1e-4
    assert abs(last["reward_chosen"]) > 1e-3
    capsys.readouterr()
    scored = {}
    for run in ("runs/1", "runs/2"):
        arguments = ["--model", run, "--data", str(data_folder), "--split", "test", "--output", f"{run}/test.jsonl"]
        assert eval_mc.main(arguments) == 0
        assert "accuracy (sum): " in capsys.readouterr().out
        records = (json.loads(line) for line in Path(f"{run}/test.jsonl").read_text().splitlines())
        scored[run] = torch.tensor([record["logprobs"] for record in records])
    assert (scored["runs/1"] - scored["runs/2"]).abs().max() > 0.1


def test_a_run_from_the_latest_one_names_which_it_was(train, data_folder):
    """Another may be the latest when it is resumed."""
    train(data_folder, *ONE_STEP)
    train(data_folder, *ONE_STEP, model="runs/latest")
    assert read_run(Path("runs/2"))["settings"]["model"] == "runs/1"


def test_another_prompt_than_the_first_run_had_is_said(train, data_folder, capsys):
    train(data_folder, "--loss", "sft", "--template", "Passage: {context}", *ONE_STEP)
    train(data_folder, "--template", "Passage: {context}", *ONE_STEP, model="runs/1")
    assert "note: runs/1" not in capsys.readouterr().out
    train(data_folder, *ONE_STEP, model="runs/1")
    assert "note: runs/1 was trained with PromptConfig(template='Passage: {context}'" in capsys.readouterr().out


@pytest.fixture(scope="module")
def real_tokenizer_model(tmp_path_factory, qwen2) -> Path:
    folder = tmp_path_factory.mktemp("real")
    tiny_model(vocab_size=151_936).save_pretrained(folder)
    qwen2.save_pretrained(folder)
    return folder


@needs_casehold
@pytest.mark.parametrize(
    ("name", "negatives"),
    [
        pytest.param(name, negatives, marks=[] if (name, negatives) in FAST else pytest.mark.slow)
        for name in LOSSES
        for negatives in NEGATIVES
    ],
)
def test_on_real_questions_the_same_seed_is_the_same_run(train, real_tokenizer_model, name, negatives):
    flags = ["--loss", name, *NEGATIVES[negatives], "--limit", 3, "--epochs", 1, "--num-neg", 3]
    first, second = (train(CASEHOLD, *flags, model=real_tokenizer_model) for _ in range(2))
    assert first == second and len(first) == 2 and all(math.isfinite(line["loss"]) for line in first)
    adapters = [load_file(f"runs/{number}/adapter_model.safetensors") for number in (1, 2)]
    assert all(torch.equal(tensor, adapters[1][key]) for key, tensor in adapters[0].items())


def test_another_seed_is_another_run(train, data_folder):
    flags = ["--epochs", 1, "--limit", 6]
    assert train(data_folder, *flags) != train(data_folder, *flags, "--seed", 1)


@pytest.mark.slow
@pytest.mark.skipif(not ULTRAFEEDBACK.is_dir(), reason="real graded pairs are not here (../shared)")
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_on_real_graded_pairs(train, real_tokenizer_model, tmp_path, name):
    lines = (ULTRAFEEDBACK / "train.jsonl").read_text(encoding="utf-8").splitlines()
    shortest = sorted(map(json.loads, lines), key=lambda row: len(row["prompt"]) + sum(map(len, row["responses"])))
    data = write_jsonl(tmp_path / "train.jsonl", [row for row in shortest if len(set(row["scores"])) > 1][:24])
    flags = ["--loss", name, "--epochs", 6, "--batch-size", 8, "--lora-dropout", 0]
    steps = train(data, *flags, model=real_tokenizer_model)
    first, last = ([line["loss"] for line in part] for part in (steps[:3], steps[-3:]))
    assert sum(last) < 0.95 * sum(first)
