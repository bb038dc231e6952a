"""The model card of a run, README.md: what it is, what it was made from, what it was measured at, and how to use it."""

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from lib.evaluation.metrics import percent_interval, wilson_interval
from lib.evaluation.report import page_environment
from lib.evaluation.scores import SCORES
from lib.models.sources import is_hub_name
from lib.questions.hub_data import hub_data
from lib.questions.prompt_config import PromptConfig
from lib.training.recipe import num_negatives, without_effect

# Settings that the card tells elsewhere, and those that change nothing of what was learnt.
NOT_RECIPE = {"model", "data", "loss", "template", "max_length", "max_ending", "end_token", "preset", "strict"}
NOT_RECIPE |= {"num_neg", "save_every", "report_to", "push_to_hub", "grad_checkpointing", "precision"}

TAGS = ("multiple-choice", "preference-optimization")


def model_card(record: dict, metrics: Sequence[dict], num_train: int, num_validation: int) -> str:
    """The card as Markdown, the hub's metadata before it.

    record: the run's own (`run.json`). metrics: the lines of `metrics.jsonl`. The numbers are of the questions it was
    trained on, and of those of validation, 0 without any.
    """
    settings = record["settings"]
    numbers = {"train": num_train, "validation": num_validation}
    data_flag = "" if settings["data"] == "casehold" else f" --data {settings['data']}"
    data_flag += f" --candidates {settings['candidates']}" if settings["candidates"] else ""
    epochs = [line for line in metrics if "validation_accuracy" in line]
    values = {
        "metadata": _metadata(record, epochs),
        "title": f"{settings['model'].rstrip('/').split('/')[-1]}, tuned to pick the right ending",
        "settings": settings,
        "adapter": settings["lora_r"] > 0,
        "negatives": num_negatives(settings),
        "data_flag": data_flag,
        "prompt": PromptConfig(**record["prompt"]),
        "splits": [(split, numbers.get(split), sha256) for split, sha256 in record["data_sha256"].items()],
        "recipe": _recipe(record),
        "score": "sum",
        "accuracies": (),
    }
    if epochs:
        values |= _validation(epochs, num_validation)
    return page_environment().get_template("card.md.j2").render(values) + "\n"


def _validation(epochs: Sequence[dict], total: int) -> dict:
    last = epochs[-1]
    correct, accuracies = round(last["validation_accuracy"] * total), _accuracies(last)
    shown = [(line["epoch"] + 1, [_accuracies(line).get(score) for score in accuracies]) for line in epochs]
    return {
        "score": _score(last),
        "correct": correct,
        "total": total,
        "accuracy": f"{last['validation_accuracy']:.1%}",
        "interval": percent_interval(wilson_interval(correct, total)),
        "accuracies": accuracies,
        "epochs": [(epoch, *("" if value is None else f"{value:.1%}" for value in values)) for epoch, values in shown],
    }


def _score(line: dict) -> str:
    return line.get("validation_score", "sum")  # before there were others it was the sum


def _accuracies(line: dict) -> dict[str, float]:
    named = {score: line.get(f"validation_accuracy_{score}") for score in SCORES}
    known = {score: value for score, value in named.items() if value is not None}
    return known or {_score(line): line["validation_accuracy"]}


def _metadata(record: dict, epochs: Sequence[dict]) -> str:
    """YAML as the hub reads it. What the hub does not have, a base in a folder or a file of questions, is left out, and
    so is the license, which is not known here."""
    settings = record["settings"]
    data, adapter = hub_data(settings["data"]), settings["lora_r"] > 0
    whole = not settings["limit"] and not settings["validation_share"]
    results = None
    if data and epochs and whole:
        last = epochs[-1]
        results = EvalResult(
            task_type="multiple-choice",
            dataset_type=data.repo,
            dataset_config=data.config,
            dataset_split="validation",
            dataset_name=data.name,
            metric_type="accuracy",
            metric_name=f"accuracy by {_score(last)}, the best of {len(_accuracies(last))} scores on these questions",
            metric_value=last["validation_accuracy"],
        )
    return ModelCardData(
        base_model=settings["model"] if is_hub_name(settings["model"]) else None,
        datasets=[data.repo] if data else None,
        library_name="peft" if adapter else "transformers",
        tags=[*TAGS, settings["loss"], *["lora"] * adapter, *["legal"] * bool(data)],
        model_name=settings["loss"] if results else None,
        eval_results=results and [results],
    ).to_yaml()


def _recipe(record: dict) -> list[tuple[str, object]]:
    """What one would have to set to make it again."""
    settings = record["settings"]
    left_out = without_effect(settings) | NOT_RECIPE | {name for name, value in settings.items() if value is None}
    return [
        *((name.replace("_", " "), value) for name, value in settings.items() if name not in left_out),
        ("precision", record["precision"]),
        ("processes", record["num_processes"]),
        ("base, SHA-256 of its weights", f"`{record['base_sha256']}`"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in record["libraries"].items())),
    ]
