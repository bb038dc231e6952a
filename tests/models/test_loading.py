"""What is loaded is what was trained: its base, its precision, and nothing rounded but weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import precision_of_its_own, rows, tiny_model
from peft import LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import train_sdpo
from lib.errors import InputError
from lib.models.loading import load_model, load_tokenizer, make_policy, pick_precision, weights_sha256
from lib.models.runs import read_run
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder, data_folder):
    """A run on a base of its own, which a test may move or change."""
    folder = tmp_path_factory.mktemp("loading")
    shutil.copytree(model_folder, folder / "base")
    flags = ["--epochs", "1", "--limit", "4", "--learning-rate", "1e-2", "--precision", "bf16"]
    with pytest.MonkeyPatch.context() as patch, precision_of_its_own():
        patch.chdir(folder)
        train_sdpo.main(["--model", "base", "--data", str(data_folder), *flags, "--output", "run"])
    return folder / "run"


@pytest.fixture
def moved(run, tmp_path):
    """The run without its base, which lies elsewhere now."""
    shutil.copytree(run.parent / "base", tmp_path / "elsewhere")
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "adapter_config.json").read_text())
    gone = config | {"base_model_name_or_path": str(tmp_path / "gone")}
    (tmp_path / "run" / "adapter_config.json").write_text(json.dumps(gone))
    (tmp_path / "run" / "SHA256SUMS").unlink()  # as a run of an older version, which has none
    return tmp_path


def frequencies(model) -> torch.Tensor:
    [found] = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    return found


def test_a_merge_in_bf16_rounds_no_rotary_table(run):
    """What a base model loaded in bf16 has; rounded, position 450 would be turned by 0.4 rad."""
    merged = load_model(str(run), torch.bfloat16, merge=True).model
    assert merged.dtype == torch.bfloat16
    assert torch.equal(frequencies(merged), frequencies(tiny_model())) and frequencies(merged).dtype == torch.float32


def test_a_merged_folder_is_the_run_merged_in_every_precision(run, tmp_path):
    load_model(str(run), torch.float32, merge=True).model.save_pretrained(tmp_path / "merged")
    for path in run.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "merged")
    ids = torch.arange(1, 60)[None]
    for dtype in (torch.float32, torch.bfloat16):
        ours = load_model(str(run), dtype, merge=True).model
        theirs = load_model(str(tmp_path / "merged"), dtype).model
        assert weights_sha256(ours) == weights_sha256(theirs)
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_that_moved_can_be_named_and_is_held_to_its_hash(moved, dtype):
    """Trained in bf16, the run knows its base in that precision; it is known again in another."""
    assert read_run(moved / "run")["precision"] == "bf16"
    with pytest.raises(InputError, match=r"gone: no such model folder.*; if it has moved, name it with --base"):
        load_model(str(moved / "run"), dtype)
    ids = torch.arange(1, 30)[None]
    found = load_model(str(moved / "run"), dtype, base=str(moved / "elsewhere")).model
    with found.disable_adapter():
        expected = (
            tiny_model().to(dtype) if dtype == torch.float32 else load_model(str(moved / "elsewhere"), dtype).model
        )
        assert torch.equal(found(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_that_changed_is_refused(moved, precision, dtype):
    base = load_model(str(moved / "elsewhere"), torch.float32).model
    record = read_run(moved / "run")
    if precision == "fp32":
        record |= {"precision": "fp32", "base_sha256": weights_sha256(base)}
        (moved / "run" / "run.json").write_text(json.dumps(record))
        load_model(str(moved / "run"), dtype, base=str(moved / "elsewhere"))
    base.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    base.save_pretrained(moved / "elsewhere")
    with pytest.raises(InputError, match="elsewhere: not the weights that .*run was trained on"):
        load_model(str(moved / "run"), dtype, base=str(moved / "elsewhere"))


def test_a_run_on_the_hub_is_a_run(run, tmp_path, monkeypatch):
    """By its name transformers itself would load base and adapter, and no more."""
    revision, repo = "0" * 40, tmp_path / "models--owner--law"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    shutil.copytree(run, repo / "snapshots" / revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    huggingface_hub.utils.reset_sessions()
    ours, loaded = load_model(str(run), torch.float32), load_model("owner/law", torch.float32)
    huggingface_hub.utils.reset_sessions()
    assert isinstance(loaded.model, PeftModel) and loaded.prompt == ours.prompt and loaded.training == ours.training
    assert all(
        torch.equal(one, other) for one, other in zip(loaded.model.parameters(), ours.model.parameters(), strict=True)
    )


def test_a_run_whose_every_weight_was_trained_keeps_them_in_fp32(model_folder, tmp_path):
    """In bf16 it would be another model than the one that training validated, with weights in fp32 under autocast."""
    shutil.copytree(model_folder, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"finished": True, "settings": {"lora_r": 0}}))
    assert load_model(str(tmp_path / "run"), torch.bfloat16).model.dtype == torch.float32
    assert load_model(str(tmp_path / "run"), torch.bfloat16, merge=True).model.dtype == torch.bfloat16


@pytest.mark.parametrize("own", [True, False])
def test_bf16_that_a_gpu_only_emulates_is_not_picked(monkeypatch, own):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: own or including_emulation)
    assert pick_precision("auto") == ("bf16" if own else "fp32")
    assert pick_precision("bf16") == "bf16"


RATES = dict.fromkeys(("attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout"), 0.1)
RATES |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.1)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi", "starcoder2", "qwen2"])
def test_before_the_first_step_a_policy_in_training_is_its_reference(family, tokenizer, encode, tmp_path):
    """Whatever dropout its family was pretrained with."""
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, n_positions=2048)
    sizes |= dict(num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), bos_token_id=None, **sizes, **RATES)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = make_policy(load_model(str(tmp_path), torch.float32).model, 4, 8, 0.0, checkpointing=False)
    batch, scorer = pack(encode(rows(2))), PackedScorer(policy)
    with torch.no_grad():
        told = [scorer.train(training)(batch) for training in (False, True)]
    torch.testing.assert_close(*told, rtol=1e-6, atol=1e-5)


def test_settings_of_generation_that_cannot_be_saved_do_not_keep_a_model_from_it(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    load_model(str(tmp_path / "base"), torch.float32).model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_a_tokenizer_with_several_chat_templates_is_kept(model_folder, data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "base")
    tokenizer = load_tokenizer("base")
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained("base")
    flags = ["--epochs", "1", "--limit", "2", "--output", "run"]
    assert train_sdpo.main(["--model", "base", "--data", str(data_folder), *flags]) == 0
    assert load_model("run", torch.float32).tokenizer.chat_template == tokenizer.chat_template


def test_a_broken_tokenizer_is_one_clear_line(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="model: no usable tokenizer"):
        load_model(str(tmp_path / "model"), torch.float32)


@pytest.fixture
def adapter(model_folder, tmp_path):
    """What makes an adapter of somebody's own on a tiny base, as PEFT writes it: no tokenizer, no record."""

    def make(config: PeftConfig, **changes) -> Path:
        base = shutil.copytree(model_folder, tmp_path / "base")
        settings = json.loads((base / "config.json").read_text()) | changes
        (base / "config.json").write_text(json.dumps(settings))
        policy = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        policy.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter"

    return make


def test_somebodys_adapter_comes_with_its_bases_tokenizer(adapter, tokenizer):
    loaded = load_model(str(adapter(LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))), torch.float32)
    assert isinstance(loaded.model, PeftModel) and loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "works outside of the layers"),
        (LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]), "an adapter for SEQ_CLS, not for a causal"),
        (LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]), "one of two tied embeddings"),
        (LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"]), "one of two tied embeddings"),
    ],
)
def test_an_adapter_that_would_not_be_itself_is_refused(adapter, config, what):
    folder = adapter(
        config if config.task_type == "CAUSAL_LM" else replace(config, task_type=None), tie_word_embeddings=True
    )
    written = json.loads((folder / "adapter_config.json").read_text()) | {"task_type": config.task_type}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=what):
        load_model(str(folder), torch.float32, merge=True)


def test_an_adapter_with_other_names_is_refused(adapter):
    """PEFT would take fresh weights, and the answers would be the base's."""
    folder = adapter(LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("model.model", "model.language_model"): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="adapter_model.safetensors: lacks base_model.*lora_A.weight"):
        load_model(str(folder), torch.float32)


def test_weights_that_the_configuration_denies_are_named(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.layers.0.self_attn.o_proj.bias"] = torch.ones(64)
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="no place for the weights model.layers.0.self_attn.o_proj.bias"):
        load_model(str(tmp_path / "base"), torch.float32)


@pytest.mark.parametrize("changes", [{"hidden_size": "64"}, {"num_attention_heads": 0}, {"rope_scaling": "linear"}])
def test_a_broken_configuration_is_one_clear_line(model_folder, tmp_path, changes):
    shutil.copytree(model_folder, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match="base: cannot load the model"):
        load_model(str(tmp_path / "base"), torch.float32)


@pytest.mark.parametrize("record", ['{"settings": null}', '{"settings": {}, "data_sha256": null}'])
def test_a_broken_record_names_its_field(run, tmp_path, record):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(record)
    with pytest.raises(InputError, match="run.json: field '(settings|data_sha256)' is no object"):
        load_model(str(tmp_path / "run"), torch.float32)


def test_an_adapter_that_names_no_base_is_told_the_flag(moved):
    config = json.loads((moved / "run" / "adapter_config.json").read_text())
    (moved / "run" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="base_model_name_or_path names no model; name it with --base"):
        load_model(str(moved / "run"), torch.float32)
    load_model(str(moved / "run"), torch.float32, base=str(moved / "elsewhere"))
