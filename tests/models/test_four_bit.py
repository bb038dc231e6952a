"""A base in 4 bits: what stays exact, what is trained on it, and what its adapter is merged into."""

import importlib.util
import shutil

import pytest
import torch
from conftest import rows

import eval_mc
import export
import train_sdpo
from lib.errors import InputError
from lib.models.four_bit import INSTALL
from lib.models.loading import load_model, weights_sha256
from lib.models.runs import read_metrics, read_run
from lib.packed.pack import pack
from lib.packed.precision import is_four_bit
from lib.packed.scoring import PackedScorer

FLAGS = ["--load-in-4bit", "--epochs", "2", "--limit", "8", "--learning-rate", "1e-2"]


def test_without_the_library_one_line_says_what_to_install(monkeypatch, model_folder):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"bitsandbytes is not installed; install it with `pip install {INSTALL}`"):
        load_model(str(model_folder), torch.float32, four_bit=True)


def test_a_base_in_4_bits_is_not_trained_whole(capsys):
    with pytest.raises(SystemExit, match="2"):
        train_sdpo.main(["--load-in-4bit", "--lora-r", "0"])
    assert "--load-in-4bit freezes the base, and --lora-r 0 trains it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder, data_folder):
    folder = tmp_path_factory.mktemp("four_bit")
    shutil.copytree(model_folder, folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lib.packed.reference.CACHE_DIR", folder / "cache")
        train_sdpo.main(["--model", "base", "--data", str(data_folder), *FLAGS, "--output", "run"])
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layers_have_4_bits_and_the_rest_what_it_had(model_folder, dtype):
    from bitsandbytes.functional import dequantize_4bit

    whole = load_model(str(model_folder), dtype)
    loaded = load_model(str(model_folder), dtype, four_bit=True)
    assert is_four_bit(loaded.model) and not is_four_bit(whole.model)
    assert loaded.weights_sha256 == whole.weights_sha256  # what a run records of its base, whatever it has become
    exact = dict(whole.model.named_parameters())
    for name, parameter in loaded.model.named_parameters():
        if not name.endswith("proj.weight"):
            assert torch.equal(parameter, exact[name])
            continue
        assert parameter.numel() * 2 == exact[name].numel() and parameter.dtype == torch.uint8
        found = dequantize_4bit(parameter.data, parameter.quant_state).float()
        error = (found - exact[name].float()).norm() / exact[name].float().norm()
        assert 0.01 < error < 0.15  # 4 bits of a normal distribution leave a tenth


@pytest.mark.slow
def test_log_probs_are_the_same_with_a_gradient_and_without(model_folder, encode):
    """The reference's come without one, the policy's with one."""
    loaded = load_model(str(model_folder), torch.float32, four_bit=True)
    scorer, batch = PackedScorer(loaded.model), pack(encode(rows(3)))
    scorer.causal_lm.get_input_embeddings().weight.requires_grad_(True)
    training = scorer.train()(batch).detach()
    with torch.no_grad():
        torch.testing.assert_close(scorer.eval()(batch), training, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_run_learns_keeps_its_reference_and_is_evaluated_as_it_was_trained(run, data_folder, monkeypatch):
    record = read_run(run)
    whole = load_model(str(run.parent / "base"), torch.float32)
    assert record["settings"]["load_in_4bit"] and record["base_sha256"] == weights_sha256(whole.model)
    assert is_four_bit(load_model(str(run), torch.float32).model)
    losses = [line["loss"] for line in read_metrics(run) if "loss" in line]
    assert sum(losses[-2:]) < 0.5 * sum(losses[:2])
    kept = set((run.parent / "cache" / "reference").iterdir())
    monkeypatch.setattr("lib.packed.reference.CACHE_DIR", run.parent / "cache")
    monkeypatch.chdir(run.parent)
    flags = ["--split", "validation", "--score", "reward"]
    eval_mc.main(["--model", str(run), "--data", str(data_folder), *flags])
    assert set((run.parent / "cache" / "reference").iterdir()) == kept  # training's own was taken
    train_sdpo.main(["--model", "base", "--data", str(data_folder), *FLAGS[1:], "--output", "whole"])
    assert len(set((run.parent / "cache" / "reference").iterdir()) - kept) == len(kept)  # a whole base has another


@pytest.mark.slow
def test_a_run_goes_on_exactly(run, data_folder, monkeypatch):
    monkeypatch.chdir(run.parent)
    step, left = train_sdpo.backward, iter([None] * 3)

    def killed_at_the_fourth(*args, **kwargs):
        next(left)
        return step(*args, **kwargs)

    monkeypatch.setattr(train_sdpo, "backward", killed_at_the_fourth)
    with pytest.raises(StopIteration):
        flags = [*FLAGS, "--save-every", "2", "--output", "killed"]
        train_sdpo.main(["--model", "base", "--data", str(data_folder), *flags])
    monkeypatch.setattr(train_sdpo, "backward", step)
    train_sdpo.main(["--resume", "--output", "killed"])
    adapters = [(folder / "adapter_model.safetensors").read_bytes() for folder in (run, run.parent / "killed")]
    assert adapters[0] == adapters[1]


@pytest.mark.slow
def test_the_adapter_is_merged_into_the_whole_base(run, data_folder, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    flags = ["--data", str(data_folder), "--merged-dir", "merged", "--output", "model.onnx"]
    assert export.main(["--model", str(run), *flags]) == 0
    printed = capsys.readouterr().out
    assert "merged into the whole base; against that, in 4 bits, as it was trained:" in printed
    assert "choices by sum that flip: " in printed
    exact, merged = (load_model(str(folder), torch.float32, merge=True).model for folder in (run, "merged"))
    assert weights_sha256(exact) == weights_sha256(merged)


@pytest.mark.slow
def test_no_run_is_a_base_in_4_bits(run):
    with pytest.raises(InputError, match="no adapter is merged into 4 bits; merge it first: export.py --merged-dir"):
        load_model(str(run), torch.float32, four_bit=True)
