"""The benchmarks: their counts of work are torch's own, llama.cpp gets their questions whole, and every script runs."""

import json
import re
import runpy
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, opinions, rows, run_python, tiny_model, write_jsonl
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

import lib.packed.scoring
from lib.errors import InputError
from lib.export.attention import BLOCKS
from lib.packed.pack import causal_bounds, pack
from lib.packed.scoring import PackedScorer

sys.path.append(str(ROOT / "benchmarks"))
import bench  # noqa: E402
import flops  # noqa: E402
import gpu  # noqa: E402
import llama  # noqa: E402
import service_load  # noqa: E402
import sides  # noqa: E402

WITH_MAIN = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "def main(" in path.read_text()]


@pytest.fixture
def model():
    model = tiny_model()
    model.set_attn_implementation("eager")  # as matrix products, which the counter sees
    return model


def counted(run) -> float:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops() / 1e9


# The rotary tables are a matrix product of one column in Hugging Face's models, which the count by hand leaves out.
def rotary_gflop(config, num_tokens: int) -> float:
    return 2 * num_tokens * (config.hidden_size // config.num_attention_heads // 2) / 1e9


def test_a_forwards_operations_equal_torchs_count(model):
    measured = counted(lambda: model(torch.arange(37)[None]))
    assert flops.forward_gflop(model.config, 37, 37) == pytest.approx(measured - rotary_gflop(model.config, 37))


def attention_in_blocks(module, query, key, value, attention_mask, scaling=None, is_causal=True, **_):
    """The exported graph's attention as products: where causal, a block of queries by the keys up to its own end."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    mixed = []
    for begin, end in pairwise(causal_bounds(query.shape[2], BLOCKS if is_causal else 1)):
        seen = end if is_causal else key.shape[2]
        scores = query[:, :, begin:end] @ key[:, :, :seen].transpose(2, 3) * scaling
        mixed.append((scores + attention_mask[:, :, begin:end, :seen]).softmax(-1) @ value[:, :, :seen])
    return torch.cat(mixed, dim=2).transpose(1, 2), None


AttentionInterface.register("blocks", attention_in_blocks)


def test_the_packed_pass_and_its_backward_equal_torchs_count(model, encode, monkeypatch):
    monkeypatch.setattr(lib.packed.scoring, "linear", F.linear)  # the counter does not know oneDNN's product
    monkeypatch.setattr(lib.packed.scoring, "PART_MULTIPLE", 1)  # no padding
    model.set_attn_implementation("blocks")
    [item] = encode(rows(1))
    scorer = PackedScorer(model)
    rotary = rotary_gflop(model.config, item.num_tokens)
    measured = counted(lambda: scorer(pack([item])))
    assert flops.packed_gflop(model.config, item, BLOCKS) == pytest.approx(measured - rotary)

    model.requires_grad_(False)
    embedding = model.get_input_embeddings()
    # As below an adapter: states need gradients, weights do not.
    embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    measured = counted(lambda: scorer(pack([item])).sum().backward())
    assert flops.training_gflop(model.config, item, BLOCKS) == pytest.approx(measured - rotary)


def test_every_way_of_scoring_gives_the_same_logprobs(model, encode):
    items = encode(rows(3))
    ways = [sides.hugging_face(model), sides.hugging_face_cached(model), sides.packed_pytorch(model)]
    padded, reused, packed = (torch.tensor(way.run(items, counted=True)) for way in ways)
    torch.testing.assert_close(reused, padded)
    torch.testing.assert_close(packed, padded)
    assert all(len(way.seconds) == 1 and way.seconds[0] > 0 for way in ways)


def test_llama_gets_every_question(encode):
    items = encode(rows(3))
    data = llama.task_file(items)
    count, *starts = struct.unpack_from("<4I", data)
    assert count == 3
    for item, start in zip(items, starts, strict=True):

        def text(at: int) -> tuple[str, int]:
            [size] = struct.unpack_from("<I", data, at)
            return data[at + 4 : at + 4 + size].decode(), at + 4 + size

        context, at = text(start)
        assert context == item.question.fields["context"]
        [candidates] = struct.unpack_from("<I", data, at)
        at += 4
        answers = []
        for _ in range(candidates):
            answer, at = text(at)
            answers.append(answer)
        assert tuple(answers) == tuple(item.question.endings)
        labels = struct.unpack_from(f"<{candidates}i", data, at)
        assert labels.index(1) == item.question.label and sum(labels) == 1
        assert struct.unpack_from("<I", data, at + 4 * candidates) == (0,)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer):
    """A tiny model, a run on it and its exports; data of enough questions."""
    folder = tmp_path_factory.mktemp("bench")
    tiny_model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for split, count in (("validation", 8), ("test", 40)):
        write_jsonl(folder / "data" / f"{split}.jsonl", rows(count))
    # Endings with 100 pairs of words among them.
    numbered = [
        row | {"endings": [f"{text} no. {number}" for text in row["endings"]]} for number, row in enumerate(rows(160))
    ]
    write_jsonl(folder / "data" / "train.jsonl", numbered)
    flags = ["--model", folder / "model", "--data", folder / "data", "--limit", 4, "--epochs", 1]
    run_python(ROOT / "train_sdpo.py", *flags, "--output", folder / "run", cwd=folder)
    for name, quantize in (("model", "none"), ("model.int8", "int8")):
        flags = ["--model", folder / "run", "--data", folder / "data", "--quantize", quantize, "--max-flips", 1]
        run_python(ROOT / "export.py", *flags, "--output", folder / f"{name}.onnx", cwd=folder)
    return folder


RUN, ONNX, BOTH = ["--model", "run"], ["--onnx", "model.onnx"], ["--onnx", "model.onnx", "model.int8.onnx"]
SMALL = ["--rounds", 1, "--questions", 1]
SCRIPTS = {
    "scoring_speed": [*RUN, *BOTH, *SMALL],
    "limit": [*RUN, *BOTH, "--questions", 1],
    "graph_profile": [*RUN, *BOTH, "--questions", 1],
    "training_speed": ["--model", "model", *SMALL, "--side", "concatenated", "packed", "packed-cached"],
    "growth": [*RUN, *BOTH, "--rounds", 1],
    "fidelity": [*RUN, *ONNX, "--reference", "model.onnx", "--limit", 4],
    "score_costs": [*RUN, *SMALL],
    "candidate_costs": [*RUN, *BOTH, *SMALL],
    "scale": ["--onnx", "model.onnx", "--model", "model", "--questions", 12],
    "full_size": ["--questions", 20, 40, "--report", 20, "--cache", "full-size", "--tokenizer", "model"],
    "training_memory": ["--size", "0.05b", "--tokenizer", "model", "--precision", "fp32", "--cap-gb", 20],
}


@pytest.mark.parametrize("path", WITH_MAIN, ids=lambda path: path.stem)
def test_help_needs_nothing_that_only_a_comparison_needs(path, monkeypatch, capsys):
    for package in ("lm_eval", "trl", "ray"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path))["main"](["--help"])
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_prints_a_table_and_writes_its_figures(prepared, scorer, name):
    figures = prepared / f"{name}.json"
    flags = [*SCRIPTS[name], "--data", "data", "--json", figures]
    printed = run_python(ROOT / "benchmarks" / f"{name}.py", *flags, cwd=prepared).stdout
    assert "|---|" in printed
    assert "threads" in json.loads(figures.read_text())["machine"]


@pytest.mark.slow
def test_the_miners_costs_and_growth_are_measured(tmp_path):
    write_jsonl(tmp_path / "opinions.jsonl", opinions(60))
    flags = ["--opinions", tmp_path / "opinions.jsonl", "--holdings", 20, 40, "--json", tmp_path / "mining.json"]
    printed = run_python(ROOT / "benchmarks" / "mining.py", *flags, cwd=tmp_path).stdout
    assert printed.count("\n|---|") == 3
    figures = json.loads((tmp_path / "mining.json").read_text())
    assert [row["holdings"] for row in figures["distractors"]] == [20, 40]


@pytest.mark.slow
def test_the_soak_knows_a_good_answer_and_a_wrong_one(tmp_path, scorer, onnx_model):
    """On rows whose characters would end a line or are none of Latin-1's; a client that dies is a fault as well."""
    records = rows(8)
    for record in records:
        record["context"] += " \u201cquoted\u201d\u2028 and on"
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records), encoding="utf-8")
    flags = ["soak", "--model", onnx_model, "--questions", questions, "--seconds", 3, "--drift", 1]
    printed = run_python(ROOT / "benchmarks" / "service_load.py", *flags, cwd=tmp_path).stdout
    assert re.search(r"^good, 200: [1-9]", printed, re.MULTILINE) and "ended with 0" in printed

    run = service_load.Soak(0, ["{}\n"], ["{}\n"], 60)
    run.run(run.run_good, 0)  # nobody listens at port 0
    assert not run.goes_on() and run.faults[0].startswith("run_good: ConnectionRefusedError")


@pytest.mark.slow
def test_the_service_chooses_the_same_by_either_door(tmp_path, scorer, onnx_model):
    """The rivals' table without the rivals, which are none of requirements.txt."""
    questions = write_jsonl(tmp_path / "questions.jsonl", rows(6))
    flags = ["--model", onnx_model, "--questions", questions, "--limit", 6]
    printed = run_python(ROOT / "benchmarks" / "service_rivals.py", *flags, cwd=tmp_path).stdout
    assert re.search(r"^\| service, /v1/completions \| [\d.]+ \| [\d.]+ \| \d+ \| 6 of 6 \|$", printed, re.MULTILINE)


@pytest.mark.slow
def test_what_a_gpu_changes_is_measured_by_one_command_here_without_one(prepared, scorer, tmp_path):
    flags = ["--data", prepared / "data", "--tokenizer", prepared / "model", "--size", "0.01b", "--large", "0.01b"]
    flags += ["--limit", 8, "--batch-size", 2, "--minutes", 60, "--output", tmp_path / "gpu"]
    run_python(ROOT / "benchmarks" / "gpu.py", *flags, cwd=tmp_path)
    done = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    assert done.pop("machine")
    assert {one["outcome"] for one in done.values()} == {"done"}
    assert done["losses against the CPU's"]["figures"]["largest_difference"] == 0  # it is the same device
    assert done["stopped and resumed"]["figures"]["equal"] == "to the last bit"
    assert done["4 bits"]["figures"]["4 bits"]["questions_per_second"] > 0
    assert done["C++ on CUDA"]["figures"]["cuda"].startswith("error: device cuda: ")
    table = (tmp_path / "gpu" / "gpu.md").read_text()
    assert all(f"| {name} | " in table for name in done)


def test_a_step_of_the_gpus_that_fails_is_named_and_the_others_go_on(monkeypatch, tmp_path):
    def fail(self):
        raise InputError("a loss differs")

    def be_done(self, *flags):
        return {"seconds": 1.0}

    steps = ("make_model", "log_probs", "training_speed", "scoring_speed", "four_bit", "memory", "cpp_cuda", "resume")
    for name in steps:
        monkeypatch.setattr(gpu.Steps, name, be_done)
    monkeypatch.setattr(gpu.Steps, "loss_curve", fail)
    with pytest.raises(InputError, match=r"^not done: losses against the CPU's \(a loss differs\); the others are in "):
        gpu.main(["--output", str(tmp_path)])
    assert "| losses against the CPU's | 0 | a loss differs |" in (tmp_path / "gpu.md").read_text()
    with pytest.raises(InputError, match="left out: --minutes were over"):
        gpu.main(["--output", str(tmp_path), "--minutes", "1e-9"])


def test_bench_says_what_is_missing_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    """With every table there, nothing is measured again; with one gone, that one alone, by its documented command."""
    monkeypatch.setattr(bench, "prepare", lambda args: (tmp_path, tmp_path, [tmp_path / "fp32", tmp_path / "int8"]))
    monkeypatch.setattr(bench, "installed", lambda package: package != "trl")
    started = []

    def run(command, **_):
        started.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="| a table |")

    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.main(["--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "missing: llama.cpp" in printed and "missing: TRL" in printed
    assert "missing: Ray" not in printed
    written = {path.stem for path in tmp_path.glob("*.md")}
    assert len(started) == len(written) >= 7
    assert set(SCRIPTS) - {"training_memory"} <= written
    for _, script, *flags in started:
        assert flags.count("--data") == 1
        if "--json" in flags:
            assert Path(flags[flags.index("--json") + 1]).stem == script.stem

    started.clear()
    (tmp_path / "limit.md").unlink()
    assert bench.main(["--output", str(tmp_path)]) == 0
    [[_, script, *_]] = started
    assert script.name == "limit.py"
    assert "| a table |" in (tmp_path / "limit.md").read_text()


def test_bench_goes_on_after_a_failure_and_ends_with_1(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "prepare", lambda args: (tmp_path, tmp_path, [tmp_path / "fp32", tmp_path / "int8"]))
    monkeypatch.setattr(
        bench.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, int("limit.py" in str(command[1])), stdout=""),
    )
    with pytest.raises(InputError, match="^failed, with the reason above: limit;"):
        bench.main(["--output", str(tmp_path)])
    assert (tmp_path / "growth.md").exists()
    assert not (tmp_path / "limit.md").exists()
