"""Model families that cannot take the packed mask are refused before the first step."""

import pytest
import torch
from conftest import rows, tiny_model
from transformers import AutoModelForCausalLM, Gemma2Config, MambaConfig, MistralConfig, MistralForCausalLM

from lib.errors import InputError
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_family, check_packed_pass

SMALL = dict(vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)


def test_qwen2_passes(encode):
    model = tiny_model()
    check_family(model, 10_000)
    assert check_packed_pass(PackedScorer(model), encode(rows(1))[0], torch.device("cpu"), "fp32") < 1e-3


def test_state_space_layers_are_refused():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(InputError, match="mamba has .*state-space layers"):
        check_family(model, 100)


def test_a_sliding_window_shorter_than_the_row_is_refused():
    model = MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=64))
    check_family(model, 64)
    with pytest.raises(InputError, match="sliding window of 64 tokens, shorter than the longest packed row of 65"):
        check_family(model, 65)


def test_a_head_that_changes_the_logits_is_noticed(encode):
    # Gemma 2 caps its logits after the projection, which the packed pass does not know of.
    config = Gemma2Config(
        **SMALL,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=0.5,
        sliding_window=4096,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="self-check failed"):
        check_packed_pass(PackedScorer(model), encode(rows(1))[0], torch.device("cpu"), "fp32")
    with pytest.raises(InputError, match="final_logit_softcapping"):
        check_family(model, 100)
