"""--output-lm-eval: our predictions in the files of lm-evaluation-harness."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, rows, write_jsonl

import eval_mc
from lib.questions.prompt_config import PromptConfig
from lib.questions.readers import read_rows

TOLERANCE = 1e-3  # of a log-prob: packed in our forward, padded in the harness's
QUESTIONS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory, model_folder) -> Path:
    """A model whose contract is what the harness does: endings are not closed, and no question is cut."""
    folder = tmp_path_factory.mktemp("plain")
    for file in model_folder.iterdir():
        (folder / file.name).symlink_to(file)
    PromptConfig("{context}", max_length=2048, end_token=False).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Where lm_eval is started: with docs/lm_eval/casehold.yaml it reads casehold/test.jsonl there."""
    folder = tmp_path_factory.mktemp("work") / "casehold"
    write_jsonl(folder / "test.jsonl", rows(QUESTIONS))
    return folder


def written(folder: Path) -> tuple[list[dict], dict]:
    """The samples and the results of the one evaluation below a folder."""
    [samples], [results] = folder.rglob("samples_*.jsonl"), folder.rglob("results_*.json")
    date = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}"
    assert re.fullmatch(rf"samples_casehold_{date}\.jsonl", samples.name)
    assert re.fullmatch(rf"results_{date}\.json", results.name) and samples.parent == results.parent
    return [json.loads(line) for line in samples.read_text().splitlines()], json.loads(results.read_text())


def test_the_files_say_what_the_predictions_say(model, data, tmp_path):
    flags = ["--model", model, "--data", data, "--limit", 7, "--score", "pmi", "--output", tmp_path / "p.jsonl"]
    assert eval_mc.main([*map(str, flags), "--output-lm-eval", str(tmp_path / "harness")]) == 0
    predictions = [row for _, row in read_rows(tmp_path / "p.jsonl")]
    samples, results = written(tmp_path / "harness")
    for number, (sample, record) in enumerate(zip(samples, predictions, strict=True)):
        row, choices = rows(QUESTIONS)[number], rows(QUESTIONS)[number]["endings"]
        assert (sample["doc_id"], sample["doc"], sample["target"]) == (number, row, str(row["label"]))
        assert [response[0][0] for response in sample["resps"]] == list(map(str, record["logprobs"]))
        asked = [(request["arg_0"], request["arg_1"]) for request in sample["arguments"].values()]
        assert asked == [(row["context"], f" {choice}") for choice in choices]
        by_character = [value / len(choice) for value, choice in zip(record["logprobs"], choices, strict=True)]
        assert sample["acc"] == float(np.argmax(record["logprobs"]) == row["label"])
        assert sample["acc_norm"] == float(np.argmax(by_character) == row["label"])
        assert sample["acc_pmi"] == float(record["prediction"] == row["label"])
    told = results["results"]["casehold"]
    right = np.array([sample["acc_pmi"] for sample in samples])
    assert told["acc_pmi,none"] == right.mean() and told["sample_len"] == 7
    assert told["acc_pmi_stderr,none"] == pytest.approx(right.std(ddof=1) / np.sqrt(7))
    assert results["n-samples"]["casehold"] == {"original": None, "effective": 7}
    assert results["model_name"] == str(model)


def test_an_ending_that_is_closed_is_shown_closed(model, data, tmp_path, tokenizer):
    flags = ["--model", model, "--data", data, "--limit", 1, "--end-token", "--output-lm-eval", tmp_path]
    assert eval_mc.main([*map(str, flags)]) == 0
    [sample], _ = written(tmp_path)
    assert {request["arg_1"][-len(tokenizer.eos_token) :] for request in sample["arguments"].values()} == {
        tokenizer.eos_token
    }


def test_it_does_not_go_with_compare(capsys):
    with pytest.raises(SystemExit) as stop:
        eval_mc.main(["--compare", "a.jsonl", "b.jsonl", "--output-lm-eval", "x"])
    assert stop.value.code == 2 and "--output-lm-eval is of one model's answers" in capsys.readouterr().err


@pytest.mark.slow
def test_the_harness_writes_the_same_of_the_same_questions_and_reads_ours(model, data, tmp_path):
    from datasets import load_dataset
    from lm_eval.utils import get_file_task_name, get_results_filenames, get_sample_results_filenames, make_table

    flags = ["--model", model, "--data", data, "--precision", "fp32", "--output-lm-eval", tmp_path / "ours"]
    assert eval_mc.main([*map(str, flags)]) == 0
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "1"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks", "casehold", "--log_samples"]
    command += ["--include_path", str(ROOT / "docs" / "lm_eval"), "--output_path", str(tmp_path / "theirs")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=data.parent, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (ours, our_results), (theirs, their_results) = written(tmp_path / "ours"), written(tmp_path / "theirs")
    for own, other in zip(ours, theirs, strict=True):
        assert set(own) == set(other) | {"acc_bytes"}  # the task file does not ask for it
        assert own["metrics"] == [*other["metrics"], "acc_bytes"]
        for field in ("resps", "filtered_resps"):
            mine, values = np.array(own.pop(field)), np.array(other.pop(field))
            assert mine.shape == values.shape
            assert mine[..., 0].astype(float) == pytest.approx(values[..., 0].astype(float), abs=TOLERANCE)
        del own["metrics"], own["acc_bytes"], other["metrics"]
        assert own == other
    for name, value in their_results["results"]["casehold"].items():
        assert our_results["results"]["casehold"].get(name) == (pytest.approx(value) if "acc" in name else value), name
    assert set(our_results) <= set(their_results)
    for name in ("n-samples", "n-shot", "task_hashes", "group_subtasks", "model_name"):
        assert our_results[name] == their_results[name], name
    asked = {"output_type", "doc_to_choice", "doc_to_target", "target_delimiter", "num_fewshot", "test_split", "task"}
    mine, other = our_results["configs"]["casehold"], their_results["configs"]["casehold"]
    assert set(mine) <= set(other) and {name: mine[name] for name in asked} == {name: other[name] for name in asked}
    # What its own readers make of ours.
    names = [str(path) for path in (tmp_path / "ours").rglob("*") if path.is_file()]
    [samples], [_] = get_sample_results_filenames(names), get_results_filenames(names)
    assert get_file_task_name(Path(samples).name) == "casehold"
    accuracy = our_results["results"]["casehold"]["acc,none"]
    assert f"|acc|↑|{accuracy:.4f}|±|" in re.sub(r" +\|", "|", make_table(our_results))
    loaded = load_dataset("json", data_files=samples, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == QUESTIONS and loaded[0]["filter"] == "none"
