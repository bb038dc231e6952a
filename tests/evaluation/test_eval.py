"""Evaluation: choices, intervals, baselines, predictions, and what is said of bad input."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, rows, run_python, tiny_model, write_jsonl
from transformers import MptConfig, MptForCausalLM

import eval_mc
import lib.evaluation.predictions
from lib.errors import InputError
from lib.evaluation.predictions import by_score
from lib.evaluation.scores import choose, score_values
from lib.models.loading import load_model
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import load_split
from lib.questions.prompt import encode_questions
from lib.questions.prompt_config import PromptConfig


def evaluate(*flags) -> int:
    return eval_mc.main([str(flag) for flag in flags])


def test_predictions_equal_unpacked_forwards(tmp_path, model_folder, data_folder, tokenizer):
    output = tmp_path / "predictions.jsonl"
    evaluate("--model", model_folder, "--data", data_folder, "--score", "mean", "--output", output)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    data = load_split(str(data_folder), "test")
    encoded = encode_questions(data.questions, tokenizer, PromptConfig("{context}"))
    with torch.no_grad():
        for record, item in zip(records, encoded, strict=True):
            plain = unpacked_logprobs(tiny_model(), item, "cpu").tolist()
            assert record["logprobs"] == pytest.approx(plain, abs=2e-4)
            assert record["tokens"] == [len(ids) for ids in item.ending_ids]
            assert record["bytes"] == [len(ending.strip().encode()) for ending in item.question.endings]
            means = [value / count for value, count in zip(record["logprobs"], record["tokens"], strict=True)]
            assert record["prediction"] == means.index(max(means))
            names = ["id", "prediction", "label", "score", "logprobs", "tokens", "bytes", "truncated", "contract"]
            assert list(record) == names and record["contract"] == PromptConfig("{context}", max_ending=256).digest


def test_the_report_has_interval_baselines_and_histogram(capsys, model_folder, data_folder):
    assert evaluate("--model", model_folder, "--data", data_folder) == 0
    output = capsys.readouterr().out
    baselines = ("chance", "longest", "shortest", "word overlap", "TF-IDF", "exact McNemar p")
    metrics = ("accuracy (sum)", " of 8", "bootstrap", "macro", "NLL", "Brier", "ECE", "90% right")
    for part in (*metrics, *baselines, "labels  predictions"):
        assert part in output


def test_without_the_end_token_endings_are_a_token_shorter(tmp_path, model_folder, data_folder):
    counts = []
    for switch in ("--end-token", "--no-end-token"):
        output = tmp_path / f"{switch}.jsonl"
        evaluate("--model", model_folder, "--data", data_folder, "--limit", 2, switch, "--output", output)
        counts.append([json.loads(line)["tokens"] for line in output.read_text().splitlines()])
    assert [[count - 1 for count in row] for row in counts[0]] == counts[1]


def test_batch_size_does_not_matter(tmp_path, model_folder, data_folder):
    results = []
    for size in (1, 5):
        output = tmp_path / f"{size}.jsonl"
        evaluate("--model", model_folder, "--data", data_folder, "--batch-size", size, "--output", output)
        results.append([json.loads(line) for line in output.read_text().splitlines()])
    for one, five in zip(*results, strict=True):
        assert one["logprobs"] == pytest.approx(five["logprobs"], abs=2e-4) and one["id"] == five["id"]


def test_the_first_candidate_wins_a_tie():
    assert choose([-2.0, -1.0, -1.0]) == 1
    assert choose(score_values({"score": "mean", "logprobs": [-2.0, -3.0], "tokens": [1, 2]})) == 1


def test_without_a_run_it_says_what_to_type(tmp_path, data_folder):
    result = run_python(ROOT / "eval_mc.py", "--data", data_folder, cwd=tmp_path, check=False)
    assert result.returncode == 1 and "python train_sdpo.py --num-neg 4" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_truncated_weights_file_is_one_clear_line(tmp_path, model_folder, data_folder):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model_folder.iterdir():
        content = path.read_bytes()
        (broken / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".safetensors" else content)
    with pytest.raises(InputError, match="cannot load the model"):
        evaluate("--model", broken, "--data", data_folder)


def test_weights_that_are_missing_are_not_made_up(tmp_path, model_folder, data_folder):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(model_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lack model.layers.1.mlp.up_proj.weight"):
        evaluate("--model", broken, "--data", data_folder)


def test_pickled_weights_are_refused(tmp_path, model_folder, data_folder):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load the model"):
        evaluate("--model", folder, "--data", data_folder)


def test_weights_that_are_not_finite_are_refused(tmp_path, tokenizer, data_folder):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(math.nan)
    model.save_pretrained(tmp_path / "nan")
    tokenizer.save_pretrained(tmp_path / "nan")
    with pytest.raises(InputError, match="not finite"):
        evaluate("--model", tmp_path / "nan", "--data", data_folder)


def test_an_adapter_for_another_model_is_refused(tmp_path, model_folder, tokenizer, data_folder):
    from peft import LoraConfig, get_peft_model

    other = get_peft_model(tiny_model(hidden_size=32), LoraConfig(target_modules="all-linear"))
    other.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model_folder)}))
    with pytest.raises(InputError, match="does not fit"):
        load_model(str(tmp_path), torch.float32)


def test_a_full_disk_leaves_no_half_written_predictions(tmp_path, model_folder, data_folder, monkeypatch):
    def full(*values, **options):
        raise OSError("no space left")

    monkeypatch.setattr(lib.evaluation.predictions, "json", SimpleNamespace(dumps=full))
    with pytest.raises(OSError, match="no space"):
        evaluate("--model", model_folder, "--data", data_folder, "--output", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_long_rows_are_cut_and_counted(tmp_path, capsys, model_folder):
    long = rows(3)
    for row in long:
        row["context"] = "the court of appeals held that " * 200 + row["context"]
    path = write_jsonl(tmp_path / "long.jsonl", long)
    evaluate("--model", model_folder, "--data", path)
    assert "3 cut on the left" in capsys.readouterr().out


def test_files_of_scores_keep_what_follows_a_dot_in_their_name():
    assert by_score(Path("of-qwen2.5"), "pmi") == Path("of-qwen2.5.pmi.jsonl")
    assert by_score(Path("runs/of-qwen2.5.jsonl"), "pmi") == Path("runs/of-qwen2.5.pmi.jsonl")


def test_a_folder_is_refused_as_output_before_anything_is_scored(tmp_path):
    with pytest.raises(InputError, match=": a folder; name a file with --output"):
        eval_mc.main(["--model", "none", "--data", "none", "--output", str(tmp_path)])


@pytest.mark.parametrize("flag", ["--output", "--output-lm-eval", "--report"])
def test_a_place_that_cannot_be_written_to_is_named_before_anything_is_scored(flag, tmp_path, model_folder):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder; name another place"):
        eval_mc.main(["--model", str(model_folder), "--data", "none", flag, str(tmp_path / "file" / "a" / "b")])


def test_a_precision_is_of_pytorchs_models(capsys):
    with pytest.raises(SystemExit) as ended:
        eval_mc.main(["--model", "model.onnx", "--precision", "bf16"])
    assert (
        ended.value.code == 2
        and "--precision is of PyTorch's models; model.onnx has its own" in capsys.readouterr().err
    )


def test_a_family_that_does_not_follow_the_mask_is_not_evaluated(tmp_path, tokenizer, data_folder):
    """MPT counts distances by rows: its log-probs would be of nothing, and look like any other."""
    config = MptConfig(vocab_size=len(tokenizer), d_model=64, n_heads=4, n_layers=2, max_seq_len=2048)
    torch.manual_seed(0)
    model = MptForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="self-check failed"):
        eval_mc.main(["--model", str(tmp_path), "--data", str(data_folder)])
