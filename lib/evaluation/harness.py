"""Predictions as files of lm-evaluation-harness 0.4, `samples_TASK_DATE.jsonl` and `results_DATE.json`, for what reads
those. The fields are those of its `evaluator.py` and `loggers/evaluation_tracker.py`.

What it would not know, or we do not, is left out or said to be unknown: whether an ending is what the model would have
written (`is_greedy`) is "None", and files that it did not write name no version of it.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from transformers import __version__ as transformers_version

from lib.paths import atomic_file
from lib.questions.data import Question
from lib.questions.prompt import EncodedQuestion, ending_text
from lib.questions.prompt_config import PromptConfig
from lib.questions.template import FIELD, render


@dataclass(frozen=True)
class HarnessTask:
    """What the files say of an evaluation: the model and the data as they were named, the split, at most how many
    questions of it (None: all), the prompt contract, and the end token's text, for endings that this closes."""

    model: str
    data: str
    split: str
    limit: int | None
    prompt: PromptConfig
    end_token: str

    @property
    def name(self) -> str:
        """The data's name, without its folder and its ending."""
        return re.sub(r"\W", "_", Path(self.data).resolve().stem if Path(self.data).exists() else self.data)

    @property
    def folder(self) -> str:
        """What the harness calls a model's folder: `sanitize_model_name` of its utils.py."""
        return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", self.model)


def write_harness(
    folder: Path, task: HarnessTask, encoded: Sequence[EncodedQuestion], records: Sequence[dict]
) -> list[Path]:
    """Write both files into `folder`/MODEL, where the harness puts them; the paths. records: the predictions on
    `encoded` by the chosen score. By the harness's names `acc` goes by log-probs, `acc_norm` by those a character,
    `acc_bytes` by those a byte; a score that it does not have adds its own, as `acc_pmi`."""
    date = datetime.now()
    pairs = zip(encoded, records, strict=True)
    samples = [_sample(number, item, record, task) for number, (item, record) in enumerate(pairs)]
    name = date.isoformat().replace(":", "-")
    paths = [folder / task.folder / f"samples_{task.name}_{name}.jsonl", folder / task.folder / f"results_{name}.json"]
    results = json.dumps(_results(samples, task, date), indent=2, ensure_ascii=False)
    texts = ["".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), results]
    for path, text in zip(paths, texts, strict=True):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def _sample(number: int, item: EncodedQuestion, record: dict, task: HarnessTask) -> dict:
    question, prompt = item.question, "".join(render(task.prompt.template, item.question))
    doc = {"id": question.id, **question.fields, "endings": list(question.endings), "label": question.label}
    endings = [ending_text(ending) + (task.end_token if task.prompt.end_token else "") for ending in question.endings]
    response = [[str(value), "None"] for value in record["logprobs"]]
    metrics = _metrics(question, record)
    return {
        "doc_id": number,
        "doc": doc,
        "target": str(question.label),
        "arguments": {f"gen_args_{k}": {"arg_0": prompt, "arg_1": ending} for k, ending in enumerate(endings)},
        "resps": [[one] for one in response],
        "filtered_resps": response,
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(str(question.label)),
        **metrics,
    }


def _metrics(question: Question, record: dict) -> dict[str, float]:
    choices = [ending_text(ending)[1:] for ending in question.endings]
    units = {"acc": [1] * len(choices), "acc_norm": [*map(len, choices)]}
    units["acc_bytes"] = [len(choice.encode()) for choice in choices]
    with np.errstate(divide="ignore"):  # an empty ending: -inf, as the harness has it
        chosen = {name: np.argmax(np.array(record["logprobs"]) / np.array(unit)) for name, unit in units.items()}
    if record["score"] not in ("sum", "bytes"):
        chosen[f"acc_{record['score']}"] = record["prediction"]
    return {name: float(choice == record["label"]) for name, choice in chosen.items()}


def _results(samples: Sequence[dict], task: HarnessTask, date: datetime) -> dict:
    names, total = samples[0]["metrics"], len(samples)
    metrics = {}
    for name in names:
        values = [sample[name] for sample in samples]
        metrics[f"{name},none"] = float(np.mean(values))
        metrics[f"{name}_stderr,none"] = float(np.std(values, ddof=1) / np.sqrt(total)) if total > 1 else "N/A"
    hashes = "".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return {
        "results": {task.name: {"name": task.name, "alias": task.name, "sample_len": total, **metrics}},
        "group_subtasks": {},
        "configs": {task.name: _config(task, names)},
        "versions": {task.name: None},
        "n-shot": {task.name: 0},
        "higher_is_better": {task.name: dict.fromkeys(names, True)},
        "n-samples": {task.name: {"original": None if task.limit else total, "effective": total}},
        "config": {"model": "eval_mc.py", "model_args": {"model": task.model}, "limit": task.limit},
        "date": date.timestamp(),
        "transformers_version": transformers_version,
        "task_hashes": {task.name: _sha256(hashes)},
        "model_source": "eval_mc.py",
        "model_name": task.model,
        "model_name_sanitized": task.folder,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
    }


def _config(task: HarnessTask, metrics: Sequence[str]) -> dict:
    """The task as a task file of the harness would say it, with the prompt contract among its metadata."""
    return {
        "task": task.name,
        "test_split": task.split,
        "doc_to_text": FIELD.sub(r"{{\1}}", task.prompt.template),
        "doc_to_target": "label",
        "doc_to_choice": "{{endings|map('trim')|list}}",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        "output_type": "multiple_choice",
        "repeats": 1,
        "metadata": {"data": task.data, "prompt": asdict(task.prompt), "contract": task.prompt.digest},
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
