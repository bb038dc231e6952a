"""Model families that cannot take the packed mask are refused before the first step."""

import pytest
import torch
from conftest import rows, tiny_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
)

from lib.errors import InputError
from lib.models.loading import load_model
from lib.packed import scoring, selfcheck
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer
from lib.packed.selfcheck import check_family, check_packed_pass, max_positions

SMALL = dict(vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
SMALL_NEO = dict(vocab_size=400, hidden_size=64, num_layers=2, num_heads=4, initializer_range=0.2)


def test_qwen2_passes(encode):
    model = tiny_model()
    check_family(model, 512)
    assert check_packed_pass(PackedScorer(model), encode(rows(1)), torch.device("cpu"))[0] < 1e-3


def test_a_model_of_fewer_positions_than_the_longest_prompt_may_have_is_refused(encode):
    """Rotary positions go on past those that it was trained on, in silence."""
    model = tiny_model(max_position_embeddings=256)
    check_family(model, 256)
    with pytest.raises(InputError, match="made for 256 positions, fewer than --max-length 257"):
        check_family(model, 257)
    assert max_positions(model) == 256
    model.config.rope_scaling = {"rope_type": "yarn", "factor": 4.0}
    check_family(model, 257)
    assert max_positions(model) is None
    model.config.use_sliding_window, model.config.sliding_window = True, 128
    assert max_positions(model) == 128


LONGROPE = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [4.0] * 8}


@pytest.mark.parametrize(
    ("config", "bound"),
    [
        (LlamaConfig(**SMALL, max_position_embeddings=64, rope_scaling={"rope_type": "dynamic", "factor": 4.0}), 64),
        (Phi3Config(**SMALL, original_max_position_embeddings=32, rope_scaling=LONGROPE, pad_token_id=None), 32),
    ],
)
def test_rotary_tables_that_follow_the_batch_are_those_of_short_rows(config, bound, tmp_path, tokenizer):
    """And within them, the model is what transformers makes of it, whatever long row came before."""
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = load_model(str(tmp_path), torch.float32).model, AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    check_family(ours, bound)
    with pytest.raises(InputError, match=f"made for {bound} positions"):
        check_family(ours, bound + 1)
    assert max_positions(ours) == bound
    short, long = torch.randint(400, (1, bound)), torch.randint(400, (1, 100))
    with torch.no_grad():
        ours(long)
        assert torch.equal(ours(short).logits, theirs(short).logits)
        assert not torch.equal(ours(long).logits, theirs(long).logits)


@pytest.fixture
def no_room(monkeypatch):
    """A device that cannot hold the weights in fp32."""

    def full(model, dtype):
        raise torch.OutOfMemoryError

    return lambda: monkeypatch.setattr("lib.packed.precision.cast_parameters", full)


def test_a_run_in_bf16_is_checked_in_fp32_on_a_question_of_median_length(encode, monkeypatch):
    model = tiny_model().bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoded, asked, packing = encode(rows(5)), [], selfcheck.pack
    monkeypatch.setattr(selfcheck, "pack", lambda items: asked.extend(items) or packing(items))
    difference, precision = check_packed_pass(PackedScorer(model), encoded, "cpu")
    assert precision == "fp32" and difference < 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert asked[0].num_tokens == sorted(item.num_tokens for item in encoded)[2]


def test_the_check_turns_no_dropout_on(encode):
    """Of a family that has it by default."""
    config = GPT2Config(vocab_size=400, n_embd=64, n_layer=2, n_head=4)
    model, encoded = AutoModelForCausalLM.from_config(config).eval(), encode(rows(2))
    check_packed_pass(PackedScorer(model), encoded, "cpu")
    batch = pack(encoded)
    assert torch.equal(PackedScorer(model)(batch), PackedScorer(model.eval())(batch))


def test_what_the_rounding_of_bf16_would_hide_is_noticed(encode, monkeypatch, no_room):
    """A model whose branches see each other, and hardly look."""
    model, encoded, mask = tiny_model(initializer_range=0.03).bfloat16(), encode(rows(5)), scoring.attention_mask
    monkeypatch.setattr(scoring, "attention_mask", lambda segments, dtype: mask(segments.clamp(max=0), dtype))
    with pytest.raises(InputError, match="self-check failed"):
        check_packed_pass(PackedScorer(model), encoded, "cpu")
    no_room()
    assert check_packed_pass(PackedScorer(model), encoded, "cpu")[1] == "bf16"


def test_without_room_for_fp32_the_check_is_in_bf16_and_says_so(encode, no_room):
    model = tiny_model().bfloat16()
    no_room()
    assert check_packed_pass(PackedScorer(model), encode(rows(3)), "cpu")[1] == "bf16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_longest_question_is_checked_too(encode):
    """What goes wrong in long rows alone: GPT-Neo's window counts rows, not positions."""
    config = GPTNeoConfig(**SMALL_NEO, attention_types=[[["global", "local"], 1]], window_size=64)
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(config).eval()
    with pytest.raises(InputError, match="gpt_neo has local layers, which cannot keep candidates apart"):
        check_family(model, 512)
    short = [row | {"context": "the tenant", "endings": ["yes", "no"], "label": 0} for row in rows(9)]
    check_packed_pass(PackedScorer(model), encode(short), "cpu")
    with pytest.raises(InputError, match="self-check failed: .* on question test-0"):
        check_packed_pass(PackedScorer(model), encode([*short, rows(1)[0] | {"id": "test-0"}]), "cpu")


def test_a_token_without_an_embedding_is_named(encode):
    with pytest.raises(InputError, match=r"rows.jsonl:1: token \d+ is beyond the model's 300 embeddings"):
        check_packed_pass(PackedScorer(tiny_model(vocab_size=300)), encode(rows(1)), "cpu")


def test_state_space_layers_are_refused():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(InputError, match="mamba has .*state-space layers"):
        check_family(model, 100)


def test_a_sliding_window_counts_positions(encode):
    """Full attention is exact as long as no prompt with one ending passes the window, however long the packed row."""
    [item] = encode(rows(1))
    longest = len(item.prompt_ids) + max(map(len, item.ending_ids))
    assert item.num_tokens > longest
    model = MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=longest)).eval()
    check_family(model, longest)
    assert check_packed_pass(PackedScorer(model), [item], "cpu")[0] < 1e-3
    with pytest.raises(InputError, match=f"window of {longest} tokens, shorter than --max-length {longest + 1}"):
        check_family(model, longest + 1)


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
        check_packed_pass(PackedScorer(model), encode(rows(1)), torch.device("cpu"))
    with pytest.raises(InputError, match="final_logit_softcapping"):
        check_family(model, 100)
