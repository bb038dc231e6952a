"""What we use of other libraries that they do not promise to keep, all of it, and that it is still there.

A new version of one of them fails here first, and says what to read before `requirements.txt` may name it.
"""

import importlib.metadata
import inspect
import pkgutil
import re

import pytest
import torch
from conftest import ROOT, tiny_model

from lib.models.loading import make_policy
from lib.packed.elementwise import OnePassGate, OnePassNorm
from lib.packed.onednn_layers import ONE_PASS

# The versions against which every use below was read.
READ = {
    "torch": "2.13.0",
    "transformers": "4.57.6",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "onnx_ir": "1.1.0",
    "onnxruntime-gpu": "1.31.1",
    "eyecite": "2.7.8",
}
# What is private or undocumented, of which library, and the files that use it.
NAMES = {
    "torch.ops.mkldnn._linear_pointwise": ("torch", ["lib/packed/onednn.py"]),
    "torch._softmax_backward_data": ("torch", ["lib/packed/attention.py"]),
    "transformers.integrations.sdpa_attention.sdpa_attention_forward": (
        "transformers",
        ["lib/packed/attention.py"],
    ),
    "transformers.masking_utils.AttentionMaskInterface": ("transformers", ["lib/packed/attention.py"]),
    "transformers.masking_utils.sdpa_mask": ("transformers", ["lib/packed/attention.py"]),
    "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS": (
        "transformers",
        ["lib/packed/scored_rows.py", "lib/packed/rotary.py"],
    ),
    "transformers.models.llama.modeling_llama.rotate_half": ("transformers", ["lib/packed/rotary.py"]),
    "peft.tuners.lora.Linear._cast_input_dtype": ("peft", ["lib/packed/lora.py"]),
    "eyecite.helpers.get_court_by_paren": ("eyecite", ["lib/mining/rules.py"]),
    "accelerate.state.AcceleratorState._reset_state": ("accelerate", ["tests/conftest.py"]),
}
# Attributes that `ScoredRows` takes of a decoder layer, `OneDnnLora` of an adapter's, and three files of a model.
LAYER = ("self_attn", "input_layernorm", "post_attention_layernorm", "mlp")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling", "attention_dropout", "config")
ADAPTER = (
    "active_adapters",
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_variant",
    "scaling",
    "disable_adapters",
    "merged",
)


@pytest.mark.parametrize("library", READ)
def test_private_uses_were_read_against_the_installed_version(library):
    installed = importlib.metadata.version(library).split("+")[0]
    uses = [name for name, (owner, _) in NAMES.items() if owner == library]
    assert installed == READ[library], (
        f"{library} is {installed}; what we use of it that is private ({', '.join(uses) or 'see below'}, and the "
        f"attributes listed here) was read in {READ[library]}: hold tests/test_private_apis.py against the new source, "
        "then change READ"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_there_and_used_where_it_is_said_to_be(name):
    library, files = NAMES[name]
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        version = importlib.metadata.version(library)
        pytest.fail(f"{library} {version} has no {name} any more; used in {', '.join(files)}")
    for file in files:
        assert name.rpartition(".")[2] in (ROOT / file).read_text(encoding="utf-8"), f"{file} uses {name} no more"


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_a_decoder_layer_is_made_as_the_narrowed_one_takes_it(family):
    model = tiny_model(family)
    assert model.config._attn_implementation == "sdpa"
    [*_, last] = model.base_model.layers
    missing = [name for name in LAYER if not hasattr(last, name)]
    missing += [f"self_attn.{name}" for name in ATTENTION if not hasattr(last.self_attn, name)]
    assert not missing, f"a {family} layer has no {missing} any more; lib/packed/scored_rows.py takes them"
    given = list(inspect.signature(type(last).forward).parameters)
    assert {"hidden_states", "attention_mask", "position_embeddings"} <= set(given), given


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_class_that_is_known_by_its_name_is_there_and_made_as_we_take_it(name):
    """Its mathematics were read in the version above."""
    family = re.sub("(RMSNorm|MLP|Attention)$", "", name).lower()
    found = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), name)
    source = inspect.getsource(found)
    taken = {OnePassNorm: ("weight", "eps"), OnePassGate: ("gate_proj", "up_proj", "down_proj", "act_fn")}
    missing = [part for part in taken.get(ONE_PASS[name], ATTENTION) if part not in source]
    assert not missing, f"{name} has no {missing} any more; lib/packed/elementwise.py and rotary.py take them"


def test_an_adapters_layer_is_made_as_ours_takes_it():
    policy = make_policy(tiny_model(), 4, 8, 0.1, checkpointing=False)
    layer = policy.get_base_model().base_model.layers[0].mlp.up_proj
    missing = [name for name in ADAPTER if not hasattr(layer, name)]
    assert not missing, f"a LoRA layer has no {missing} any more; lib/packed/lora.py takes them"
    assert type(layer.base_layer) is torch.nn.Linear


def test_the_quantiser_still_takes_a_mark_for_shapes_that_are_known():
    """lib/export/int8.py sets it, which spares a second copy of the model."""
    from onnxruntime.quantization import quant_utils

    assert '"onnx.infer"' in inspect.getsource(quant_utils) and '"onnxruntime.quant"' in inspect.getsource(quant_utils)


def test_a_tensor_of_a_graph_still_shows_the_memory_it_stands_for():
    """lib/export/files.py stores tied weights once by it."""
    from onnx_ir.tensor_adapters import TorchTensor

    tensor = torch.zeros(3)
    assert TorchTensor(tensor).raw is tensor
