"""The table of model families in docs/train.md, row by row: a tiny model of each goes the whole way, or is refused."""

import json
import re
import subprocess

import pytest
import torch
from conftest import ROOT, rows, write_jsonl
from transformers import AutoConfig, AutoModelForCausalLM

import eval_mc
import export
import train_sdpo
from lib.errors import InputError

SMALL = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=2048,
    initializer_range=0.2,
    bos_token_id=None,
    pad_token_id=None,
    sliding_window=512,
)
CHANGES = {
    "gpt2": dict(n_embd=64, n_layer=2, n_head=4, n_positions=2048),
    "gpt_neox": dict(num_key_value_heads=4),
    "phi": dict(num_key_value_heads=4, partial_rotary_factor=0.5),
    "gemma3_text": dict(layer_types=["sliding_attention", "full_attention"]),
    "phi3": dict(
        original_max_position_embeddings=1024,
        rope_scaling={"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [4.0] * 8},
    ),
    "mamba": dict(state_size=4),
}
TABLE = re.findall(
    r"^\| `([\w]+)`[^|]*\| (.+) \|$", (ROOT / "docs" / "train.md").read_text(encoding="utf-8"), re.MULTILINE
)
FAMILIES = [(name, outcome) for name, outcome in TABLE if outcome.startswith(("the whole way", "refused: "))]


def test_the_table_is_read():
    assert len(FAMILIES) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("family, outcome", FAMILIES)
def test_a_family_goes_the_whole_way_or_is_refused(family, outcome, tokenizer, scorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("validation", 4), ("test", 8)):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", rows(count, start=len(split) * 10))
    settings = SMALL | dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    config = AutoConfig.for_model(family, **settings | CHANGES.get(family, {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa" if family != "mamba" else None)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # a new model's are all zero, and would hide what forgets them
            torch.nn.init.normal_(parameter, std=2 if name == "lm_head.bias" else 0.2)
    model.save_pretrained("base")
    tokenizer.save_pretrained("base")
    flags = ["--num-neg", "4", "--epochs", "1", "--batch-size", "4", "--learning-rate", "1e-3"]
    flags += ["--model", "base", "--data", "data", "--output", "run"]
    if outcome.startswith("refused: "):
        with pytest.raises(InputError) as refusal:
            train_sdpo.main(flags)
        assert f"refused: {refusal.value}".startswith(outcome)
        return
    assert train_sdpo.main(flags) == 0
    assert eval_mc.main(["--split", "test", "--model", "run", "--data", "data", "--output", "python.jsonl"]) == 0
    ours = [json.loads(line) for line in (tmp_path / "python.jsonl").read_text().splitlines()]
    for form, tolerance in (("none", {"abs": 2e-3}), ("int8", {"rel": 0.05}), ("int8x2", {"rel": 0.01})):
        flags = ["--quantize", form, "--max-flips", "1", "--output", f"{form}.onnx"]
        assert export.main(["--model", "run", "--data", "data", *flags]) == 0
        command = [ROOT / "cpp_scorer" / "score", "--model", f"{form}.onnx", "--input", "data/test.jsonl"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        assert len(lines) == len(ours) == 8
        for line, mine in zip(map(json.loads, lines), ours, strict=True):
            assert line["logprobs"] == pytest.approx(mine["logprobs"], **tolerance), form
