"""The model card: what a person reads of a run, and what the hub does."""

import pytest
from huggingface_hub import ModelCard

import train_sdpo
from lib.evaluation.card import model_card
from lib.evaluation.metrics import percent_interval, wilson_interval
from lib.models.runs import library_versions
from lib.questions.prompt_config import PromptConfig

PROMPT = PromptConfig("Passage: {context} Holding:", 384, end_token=True, max_ending=192)


def card(*flags: str, metrics=(), num_validation: int = 0, **changes) -> ModelCard:
    """The card of a run with these flags, as the hub's own library reads it."""
    settings, _ = train_sdpo.read_flags([*flags])
    del settings["output"], settings["resume"]
    record = {
        "settings": settings,
        "prompt": vars(PROMPT),
        "data_sha256": {"train": "a" * 64} | ({"validation": "b" * 64} if num_validation else {}),
        "precision": "bf16",
        "num_processes": 1,
        "base_sha256": "c" * 64,
        "libraries": library_versions(),
    }
    return ModelCard(model_card(record | changes, metrics, 1_999, num_validation))


def validated(epoch: int, **accuracies: float) -> dict:
    best = max(accuracies, key=accuracies.get)
    line = {"step": epoch, "epoch": epoch, "validation_score": best, "validation_accuracy": accuracies[best]}
    return line | {f"validation_accuracy_{score}": value for score, value in accuracies.items()}


VALIDATED = {"metrics": [validated(0, sum=0.20, pmi=0.40), validated(1, sum=0.25, pmi=0.45)], "num_validation": 200}


def test_of_a_hub_model_on_casehold_the_hub_is_told_all_of_it():
    data = card("--loss", "swepo", **VALIDATED).data
    assert data.base_model == "Qwen/Qwen2.5-0.5B" and data.library_name == "peft"
    assert data.datasets == ["coastalcph/lex_glue"] and data.license is None
    assert set(data.tags) == {"multiple-choice", "preference-optimization", "swepo", "lora", "legal"}
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.45, "validation")
    assert "the best of 2 scores on these questions" in result.metric_name


@pytest.mark.parametrize("flags", [["--data", "mine.jsonl"], ["--limit", "9"], ["--validation-share", "0.1"]])
def test_an_accuracy_on_other_questions_is_no_result_of_casehold_s(flags):
    assert card(*flags, **VALIDATED).data.eval_results is None


@pytest.mark.parametrize("model", ["demo", "smollm2", "/", "."])
def test_a_base_that_no_hub_has_is_named_to_the_reader_alone(model):
    shown = card("--model", model, "--lora-r", "0", "--data", "mine.jsonl")
    assert shown.data.base_model is None and shown.data.datasets is None and shown.data.library_name == "transformers"
    assert f"`{model}` with all its weights trained" in shown.text and "lora" not in shown.data.tags


def test_a_person_reads_the_accuracy_with_its_interval_and_what_chose_the_score():
    text = " ".join(card(**VALIDATED).text.split())
    interval = percent_interval(wilson_interval(90, 200))
    assert f"90 of 200 questions are right by `pmi`: 45.0%, 95 % Wilson interval {interval}" in text
    assert "`pmi` is the best of 2 scores on these very questions" in text
    assert "| epoch | sum | pmi | |---|---|---| | 1 | 20.0% | 40.0% | | 2 | 25.0% | 45.0% |" in text
    assert "python eval_mc.py --model RUN --score pmi" in text


def test_without_validation_questions_the_card_claims_nothing():
    text = card("--data", "mine.jsonl").text
    assert "nothing is known of its accuracy" in text and "Wilson" not in text
    assert "python eval_mc.py --model RUN --data mine.jsonl --score sum" in text


def test_a_person_reads_the_prompt_contract_and_what_the_data_were():
    text = card(**VALIDATED).text
    contract = [f"`{PROMPT.template}`", "closed with the end-of-text token", "384 tokens", "192 tokens", PROMPT.digest]
    for told in contract:
        assert told in text
    assert f"| train | 1,999 | `{'a' * 64}` |" in text and f"| validation | 200 | `{'b' * 64}` |" in text


def test_the_recipe_has_what_was_set_and_nothing_that_changes_nothing():
    text = card("--loss", "sft", "--learning-rate", "3e-4", "--push-to-hub", "law").text
    recipe = text.split("## Recipe")[1].split("## Limits")[0]
    assert "| learning rate | 0.0003 |" in recipe and "| precision | bf16 |" in recipe and "c" * 64 in recipe
    for idle in ("beta", "negatives", "push to hub", "report to", "None"):
        assert idle not in recipe


def test_a_run_of_an_older_version_whose_lines_name_no_score_has_its_card():
    older = {"step": 3, "epoch": 0, "validation_accuracy": 0.5}
    text = card(metrics=[older, validated(1, sum=0.25, pmi=0.45)], num_validation=20).text
    assert "| 1 | 50.0% |  |" in text and "| 2 | 25.0% | 45.0% |" in text
