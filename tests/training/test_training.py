"""Training as its user sees it: the run folder, what changes and what does not, interruption, several processes."""

import argparse
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import load
from conftest import CASEHOLD, QWEN2_TOKENIZER, ROOT, needs_casehold, precision_of_its_own, run_python, tiny_model
from safetensors.torch import load_file
from transformers import AutoTokenizer

import eval_mc
import lib.packed.reference
import train_sdpo
from lib.errors import InputError
from lib.evaluation.scores import SCORES
from lib.models.loading import load_model, weights_sha256
from lib.models.runs import read_metrics, read_run
from lib.questions.data import load_split, load_train_and_validation
from lib.questions.readers import read_rows
from lib.training.journal import what_next
from lib.training.losses import Objective
from lib.training.negatives import epoch_order

TIMINGS = {"questions_per_second", "tokens_per_second", "peak_memory_gb"}


def arguments(model: Path, data: Path, *more) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--batch-size", "3", "--learning-rate", "1e-3", *map(str, more)]


def train_in(folder: Path, *flags) -> Path:
    """Train as runs/a in a folder: the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train_sdpo.main(arguments(*flags, "--output", "runs/a")) == 0
    return folder / "runs" / "a"


def values(run: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in read_metrics(run)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, data_folder) -> Path:
    """A run never interrupted: 13 questions in batches of 3, two epochs, dropout on."""
    return train_in(tmp_path_factory.mktemp("finished"), model_folder, data_folder, "--epochs", 2)


def test_step_0_is_ln_of_5_with_zero_rewards(finished):
    first = read_metrics(finished)[0]
    assert first["loss"] == pytest.approx(math.log(5), abs=1e-4)
    assert abs(first["reward_chosen"]) < 1e-4 and abs(first["reward_rejected"]) < 1e-4


def test_metrics_have_one_line_a_step_and_one_an_epoch(finished):
    steps = [line for line in read_metrics(finished) if "loss" in line]
    validation = [line for line in read_metrics(finished) if "validation_accuracy" in line]
    assert [line["step"] for line in steps] == list(range(10)) and len(validation) == 2
    assert set(steps[0]) >= TIMINGS | {"grad_norm", "learning_rate", "margin", "reward_accuracy", "logprob_chosen"}


def test_validation_is_what_evaluation_says_by_every_score(finished, data_folder, tmp_path):
    last = [line for line in read_metrics(finished) if "validation_accuracy" in line][-1]
    flags = ["--split", "validation", "--model", str(finished), "--data", str(data_folder), "--score", "all"]
    assert eval_mc.main([*flags, "--output", str(tmp_path / "v.jsonl")]) == 0
    evaluated = {}
    for score in SCORES:
        answers = [row for _, row in read_rows(tmp_path / f"v.{score}.jsonl")]
        kept = [row for _, row in read_rows(finished / f"predictions.validation.{score}.jsonl")]
        for own, other in zip(kept, answers, strict=True):
            assert own.pop("logprobs") == pytest.approx(other.pop("logprobs"), abs=1e-4)
            assert all(own[name] == pytest.approx(other[name], abs=1e-4) for name in other)
        evaluated[score] = np.mean([row["prediction"] == row["label"] for row in answers])
    assert evaluated == {score: last[f"validation_accuracy_{score}"] for score in SCORES}
    assert last["validation_accuracy"] == max(evaluated.values()) == evaluated[last["validation_score"]]


def test_evaluation_takes_the_reference_that_training_kept(model_folder, data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lib.packed.reference, "CACHE_DIR", tmp_path / "cache")
    train_sdpo.main(arguments(model_folder, data_folder, "--epochs", 1, "--output", tmp_path / "run"))

    def compute(*_):
        raise AssertionError("the reference is computed again")

    monkeypatch.setattr(lib.packed.reference, "_compute", compute)
    flags = ["--split", "validation", "--model", str(tmp_path / "run"), "--data", str(data_folder)]
    assert eval_mc.main([*flags, "--score", "reward"]) == 0


def test_the_run_folder_is_complete(finished):
    assert {path.name for path in finished.iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
        "tokenizer.json",
        "prompt.json",
        "run.json",
        "metrics.jsonl",
        "curve.png",
        "checkpoints",
    }
    assert (finished.parent / "latest").resolve() == finished
    record = read_run(finished)
    assert (
        record["finished"]
        and record["settings"]["num_neg"] == 4
        and set(record["data_sha256"])
        == {
            "train",
            "validation",
        }
    )
    assert not [path for path in finished.rglob("*") if "incomplete" in path.name or path.suffix == ".tmp"]


def test_every_adapter_weight_changed_and_no_other(finished, model_folder):
    adapter = load_file(finished / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all(tensor.abs().max() > 0 for tensor in adapter.values())
    trained = load_model(str(finished), torch.float32).model
    assert weights_sha256(load_model(str(model_folder), torch.float32).model) == read_run(finished)["base_sha256"]
    with trained.disable_adapter():
        ids = torch.arange(1, 30)[None]
        torch.testing.assert_close(trained(ids).logits, tiny_model()(ids).logits, rtol=0, atol=0)


def test_the_loss_falls_where_it_may_overfit(tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    flags = ["--limit", 6, "--epochs", 12, "--learning-rate", "5e-3", "--lora-dropout", 0, "--output", "runs/b"]
    assert train_sdpo.main(arguments(model_folder, data_folder, *flags)) == 0
    steps = [line for line in read_metrics(Path("runs/b")) if "loss" in line]
    assert sum(line["loss"] for line in steps[-5:]) / 5 < 0.5 * math.log(5)
    assert sum(line["reward_accuracy"] for line in steps[-5:]) / 5 > 0.9


def test_what_a_gpu_trains_by_default_learns_on_a_cpu_too(tmp_path, monkeypatch, capsys, model_folder, data_folder):
    """The base in bf16, the adapter in fp32, autocast, every layer but the narrowed last one computed anew: the first
    step is that of fp32 as far as bf16 goes, and the loss falls."""
    monkeypatch.chdir(tmp_path)
    flags = ["--epochs", 5, "--learning-rate", "5e-3", "--lora-dropout", 0, "--output"]
    on_gpu = ["bf16", "--precision", "bf16", "--grad-checkpointing"]
    with precision_of_its_own():
        assert train_sdpo.main(arguments(model_folder, data_folder, *flags, *on_gpu)) == 0
    assert "log-probs agree to" in capsys.readouterr().out
    assert train_sdpo.main(arguments(model_folder, data_folder, *flags, "fp32", "--epochs", 1)) == 0
    (first, *_), exact = ([line for line in read_metrics(Path(run)) if "loss" in line] for run in ("bf16", "fp32"))
    assert first["loss"] == pytest.approx(math.log(5), abs=0.05) and abs(first["reward_chosen"]) < 0.05
    assert first["grad_norm"] == pytest.approx(exact[0]["grad_norm"], rel=0.05)
    assert first["logprob_chosen"] == pytest.approx(exact[0]["logprob_chosen"], rel=0.02)
    steps = [line["loss"] for line in read_metrics(Path("bf16")) if "loss" in line]
    assert sum(steps[-5:]) / 5 < 0.5 * math.log(5)
    assert {tensor.dtype for tensor in load_file("bf16/adapter_model.safetensors").values()} == {torch.float32}
    loaded = load_model("bf16", torch.bfloat16).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16, torch.float32}


@pytest.mark.slow
@needs_casehold
def test_real_questions_can_be_learnt_by_heart(tmp_path, monkeypatch):
    """100 real questions, which a tiny model with the real tokenizer may overfit."""
    monkeypatch.chdir(tmp_path)
    tiny_model(vocab_size=151_936).save_pretrained("tiny")
    AutoTokenizer.from_pretrained(QWEN2_TOKENIZER).save_pretrained("tiny")
    flags = ["--limit", 100, "--epochs", 4, "--batch-size", 10, "--learning-rate", "5e-3", "--lora-r", 32]
    flags += ["--lora-dropout", 0, "--output", "runs/real"]
    assert train_sdpo.main(["--model", "tiny", "--data", str(CASEHOLD), *map(str, flags)]) == 0
    steps = [line for line in read_metrics(Path("runs/real")) if "loss" in line]
    assert sum(line["reward_accuracy"] for line in steps[-10:]) / 10 > 0.9


def test_killed_and_resumed_equals_never_killed(finished, tmp_path, monkeypatch, model_folder, data_folder):
    command = [
        sys.executable,
        str(ROOT / "train_sdpo.py"),
        *arguments(model_folder, data_folder, "--epochs", 2, "--output", "runs/a", "--save-every", 1),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = tmp_path / "runs" / "a"
    deadline = time.monotonic() + 300
    while not list(run.glob("checkpoints/step-*3")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "adapter_config.json").exists()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": ')  # a line cut short by the kill
    monkeypatch.chdir(tmp_path)
    assert train_sdpo.main(["--resume"]) == 0
    assert (run / "adapter_model.safetensors").read_bytes() == (finished / "adapter_model.safetensors").read_bytes()
    assert values(run) == values(finished)


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, model_folder, data_folder, sent, code):
    monkeypatch.chdir(tmp_path)
    step = train_sdpo.backward

    def interrupted_in_the_second(scorer, batch, *others):
        if batch.step == 1:
            os.kill(os.getpid(), sent)
        return step(scorer, batch, *others)

    monkeypatch.setattr(train_sdpo, "backward", interrupted_in_the_second)
    assert train_sdpo.main(arguments(model_folder, data_folder)) == code
    told = "stopped after step 1; go on: python train_sdpo.py --resume --output runs/sdpo-neg4"
    assert told in capsys.readouterr().out
    assert [path.name for path in Path("runs/sdpo-neg4/checkpoints").iterdir()] == ["step-00000002"]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, model_folder, data_folder) -> tuple[Path, list[int]]:
    """The folder in which a run was trained, but not below its runs/, and the epochs whose order was drawn."""
    folder, drawn = tmp_path_factory.mktemp("elsewhere"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        order = train_sdpo.epoch_order
        patch.setattr(train_sdpo, "epoch_order", lambda *args: (drawn.append(args[-1]), order(*args))[1])
        assert train_sdpo.main(arguments(model_folder, data_folder, "--epochs", 2, "--output", "sweep/runs/a")) == 0
    return folder, drawn


def test_the_order_of_an_epoch_is_drawn_once(elsewhere):
    assert elsewhere[1] == [0, 1]


def test_latest_names_runs_of_runs_alone(elsewhere, finished):
    assert (finished.parent / "latest").resolve() == finished
    assert [path.name for path in elsewhere[0].iterdir()] == ["sweep"]


def test_accumulation_equals_one_batch(tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    flags = ["--epochs", 1, "--lora-dropout", 0, "--output"]
    train_sdpo.main(arguments(model_folder, data_folder, *flags, "whole", "--batch-size", 4))
    parts = ["parts", "--batch-size", 2, "--grad-accum", 2]
    train_sdpo.main(arguments(model_folder, data_folder, *flags, *parts))
    assert_same_run(Path("parts"), Path("whole"))


# The second process finds nothing in the cache, as on a disk that it does not share with the first.
WITHOUT_SHARED_CACHE = f"""
import os, pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
import lib.packed.reference, train_sdpo
if os.environ["RANK"] == "1":
    lib.packed.reference.CACHE_DIR = pathlib.Path("other-cache")
train_sdpo.main()
"""


@pytest.mark.slow
def test_two_nodes_equal_one(tmp_path, model_folder, data_folder):
    """As docs/scale.md has it, both nodes on this machine."""
    flags = ["--epochs", 1, "--lora-dropout", 0]
    one = [*flags, "--output", "one", "--batch-size", 4]
    run_python(ROOT / "train_sdpo.py", *arguments(model_folder, data_folder, *one), cwd=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, str(ROOT / "train_sdpo.py")]
    given = [*arguments(model_folder, data_folder, *flags, "--output", "two", "--batch-size", 2)]
    nodes = [subprocess.Popen([*command, *map(str, given)], cwd=tmp_path) for _ in range(2)]
    assert [node.wait(300) for node in nodes] == [0, 0]
    assert read_run(tmp_path / "two")["num_processes"] == 2
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_processes_that_hold_parts_of_the_weights_are_refused(monkeypatch, model_folder, data_folder, name):
    """accelerate takes neither on a CPU, in silence: the flags of its launcher are looked at."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(InputError, match=f"{name} is not taken: every process holds the whole model"):
        train_sdpo.main([*map(str, arguments(model_folder, data_folder, "--epochs", 1, "--output", "refused"))])


def test_two_processes_equal_one_and_speak_as_one(tmp_path, model_folder, data_folder):
    flags = ["--epochs", 1, "--lora-dropout", 0]
    one = [*flags, "--output", "runs/sdpo-neg4", "--batch-size", 4]
    run_python(ROOT / "train_sdpo.py", *arguments(model_folder, data_folder, *one), cwd=tmp_path)
    (tmp_path / "train.py").write_text(WITHOUT_SHARED_CACHE)
    result = run_python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "train.py"),
        *arguments(model_folder, data_folder, *flags, "--batch-size", 2),
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    one, two = tmp_path / "runs" / "sdpo-neg4", tmp_path / "runs" / "sdpo-neg4-2"
    assert read_run(two)["num_processes"] == 2 and read_run(one)["num_processes"] == 1
    assert_same_run(two, one)
    for line in ("device: cpu", "self-check", "step 0: loss", "epoch 1: validation accuracy"):
        assert result.stdout.count(line) == 1
    [newest] = two.glob("checkpoints/step-*")
    states = [load(newest / f"random_states_{rank}.pkl")["torch_manual_seed"] for rank in range(2)]
    assert not torch.equal(*states)  # dropout differs


def assert_same_run(run: Path, other: Path) -> None:
    for line, expected in zip(values(run), values(other), strict=True):
        assert line.pop("validation_score", None) == expected.pop("validation_score", None)
        assert line == pytest.approx(expected, rel=2e-4, abs=2e-4)
    adapter, expected = (load_file(folder / "adapter_model.safetensors") for folder in (run, other))
    for name, tensor in adapter.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_an_infinite_loss_stops_with_the_ids(tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)

    def infinite_for_the_second(scores, *others):
        return scores.sum(1) * torch.tensor([1.0, math.inf, 1.0])

    monkeypatch.setitem(train_sdpo.LOSSES, "sdpo", Objective(infinite_for_the_second))
    order = epoch_order(13, 0, 0)
    with pytest.raises(InputError, match=rf"step 0: the loss is not finite on questions q{order[1]};"):
        train_sdpo.main(arguments(model_folder, data_folder, "--output", "runs/c"))
    assert not (tmp_path / "runs" / "c" / "checkpoints").exists()


def test_resume_refuses_other_settings_and_other_data(finished, tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(finished.parent.parent)
    with pytest.raises(InputError, match="this run has finished"):
        train_sdpo.main(["--resume", "--output", str(finished)])
    with pytest.raises(InputError, match="exists already"):
        train_sdpo.main(arguments(model_folder, data_folder, "--output", finished))
    run = tmp_path / "run"
    run.mkdir()
    record = read_run(finished) | {"finished": False, "data_sha256": {"train": "0", "validation": "0"}}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="the run was started with --beta 0.1, not 0.5"):
        train_sdpo.main(["--resume", "--output", str(run), "--beta", "0.5"])
    with pytest.raises(InputError, match=r"run.json: data_sha256 was .* and is now"):
        train_sdpo.main(["--resume", "--output", str(run)])
    del record["data_sha256"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run.json: data_sha256 was not recorded and is now"):
        train_sdpo.main(["--resume", "--output", str(run)])


def test_the_marsh_preset_changes_defaults_and_flags_win():
    preset = ["--preset", "marsh"]
    for flags, expected in (([], 512), (preset, 256), ([*preset, "--max-length", "300"], 300)):
        assert train_sdpo.read_flags(flags)[0]["max_length"] == expected


@pytest.mark.parametrize(
    "flags",
    [["--num-neg", "0"], ["--loss", "nonsense"], ["--beta", "nan"], ["--seed", "-1"], ["--no-such-flag"]],
)
def test_a_bad_flag_ends_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        train_sdpo.main(flags)
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


def test_a_run_of_one_step_learns(tmp_path, model_folder, data_folder):
    """Its only step is no step of warm-up, whose first has a rate of 0."""
    flags = ["--epochs", "1", "--limit", "2", "--batch-size", "2", "--learning-rate", "1e-3"]
    train_sdpo.main(
        ["--model", str(model_folder), "--data", str(data_folder), *flags, "--output", str(tmp_path / "run")]
    )
    adapter = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_without_a_validation_split_training_says_so(tmp_path, monkeypatch, capsys, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(data_folder / "train.jsonl", folder)
    for data in (folder, folder / "train.jsonl"):  # a single file serves every split
        run = tmp_path / f"run-{data.name}"
        assert train_sdpo.main(arguments(model_folder, data, "--epochs", 1, "--output", run)) == 0
        assert f"{data}: no validation split, so none is looked at" in capsys.readouterr().out
        assert not [line for line in read_metrics(run) if "validation_accuracy" in line]
        assert "validation" not in read_run(run)["data_sha256"]


def test_a_share_of_train_is_held_out_instead(tmp_path, monkeypatch, capsys, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    data = str(data_folder / "train.jsonl")
    flags = ("--epochs", 1, "--validation-share", 0.3, "--output", tmp_path / "run")
    assert train_sdpo.main(arguments(model_folder, data, *flags)) == 0
    assert "no validation" not in capsys.readouterr().out
    steps = [line for line in read_metrics(tmp_path / "run") if "validation_accuracy" not in line]
    assert len(steps) == 3 == len(read_metrics(tmp_path / "run")) - 1  # 9 of 13 questions in batches of 3
    kept, held_out = load_train_and_validation(data, 0.3)
    assert {q.id for q in kept.questions} | {q.id for q in held_out.questions} == {f"q{n}" for n in range(13)}
    assert len(kept.questions) == 9 and held_out.sha256 != kept.sha256 == load_split(data, "train").sha256
    with pytest.raises(InputError, match="--validation-share 0.01 is 0 of the 13 questions"):
        load_train_and_validation(data, 0.01)


def test_starting_from_a_run_merges_its_adapter(finished, tmp_path, monkeypatch, data_folder):
    monkeypatch.chdir(tmp_path)
    train_sdpo.main(arguments(finished, data_folder, "--epochs", 1, "--output", "runs/second"))
    merged = load_model(str(finished), torch.float32, merge=True).model
    assert read_run(Path("runs/second"))["base_sha256"] == weights_sha256(merged)
    second = load_model("runs/second", torch.float32).model
    ids = torch.arange(1, 30)[None]
    with second.disable_adapter():
        torch.testing.assert_close(second(ids).logits, merged(ids).logits, rtol=0, atol=0)


@pytest.fixture(scope="module")
def fully_tuned(tmp_path_factory, model_folder, data_folder) -> Path:
    """Every weight trained, two epochs of 13 questions in batches of 3."""
    return train_in(tmp_path_factory.mktemp("full"), model_folder, data_folder, "--lora-r", 0, "--epochs", 2)


def test_full_fine_tuning_starts_at_the_reference_and_changes_every_weight(fully_tuned, model_folder):
    first = read_metrics(fully_tuned)[0]
    assert first["loss"] == pytest.approx(math.log(5), abs=1e-4) and abs(first["reward_chosen"]) < 1e-4
    trained = dict(load_model(str(fully_tuned), torch.float32).model.named_parameters())
    base = load_model(str(model_folder), torch.float32).model
    assert all(not torch.equal(weight, trained[name]) for name, weight in base.named_parameters())
    assert not (fully_tuned / "adapter_config.json").exists()


def test_the_reward_of_full_fine_tuning_is_against_the_model_it_started_from(
    fully_tuned, tmp_path, model_folder, data_folder
):
    import eval_mc

    flags = ["--data", str(data_folder), "--output"]
    eval_mc.main(["--model", str(fully_tuned), "--score", "reward", *flags, str(tmp_path / "run.jsonl")])
    eval_mc.main(["--model", str(model_folder), *flags, str(tmp_path / "base.jsonl")])
    files = (tmp_path / "run.jsonl", tmp_path / "base.jsonl")
    run, base = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    for tuned, untuned in zip(run, base, strict=True):
        assert tuned["reference_logprobs"] == pytest.approx(untuned["logprobs"], abs=1e-4)
        assert tuned["logprobs"] != pytest.approx(untuned["logprobs"], abs=1e-2)


def test_full_fine_tuning_resumes_exactly(fully_tuned, tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    stops = iter([None] * 3)
    step = train_sdpo.backward

    def killed_at_the_fourth(*args, **kwargs):
        next(stops)
        return step(*args, **kwargs)

    monkeypatch.setattr(train_sdpo, "backward", killed_at_the_fourth)
    flags = ["--lora-r", 0, "--epochs", 2, "--save-every", 2, "--output", "runs/a"]
    with pytest.raises(StopIteration):
        train_sdpo.main(arguments(model_folder, data_folder, *flags))
    monkeypatch.setattr(train_sdpo, "backward", step)
    train_sdpo.main(["--resume", "--output", "runs/a"])
    assert Path("runs/a/model.safetensors").read_bytes() == (fully_tuned / "model.safetensors").read_bytes()


def test_at_its_end_a_run_names_its_score_and_an_epoch_that_was_better_by_it():
    by_epoch = [{"pmi": 0.6, "sum": 0.3}, {"pmi": 0.5, "sum": 0.7}, {"pmi": 0.55, "sum": 0.2}]
    metrics = [
        {"validation_score": max(one, key=one.get), "validation_accuracy": max(one.values())}
        | {f"validation_accuracy_{score}": value for score, value in one.items()}
        for one in by_epoch
    ]
    settings = argparse.Namespace(lora_r=8, data="a b", candidates=None)
    said = what_next(settings, Path("runs/a"), metrics).splitlines()
    assert said[1].startswith("note: by pmi validation was best after epoch 1;")
    assert said[2] == "next: python eval_mc.py --split test --model runs/a --data 'a b' --score pmi"
    assert len(what_next(settings, Path("runs/a"), metrics[:1]).splitlines()) == 2
