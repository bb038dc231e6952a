"""What lies between a layer's products in one pass: the values and gradients of plain PyTorch, or PyTorch itself."""

import copy
import subprocess

import pytest
import torch
import torch.nn.functional as F
from conftest import rows, tiny_model
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from lib.models.loading import make_policy
from lib.packed import kernels
from lib.packed.attention import onednn_attention
from lib.packed.dropout import CheapDropout, Drop
from lib.packed.lora import OneDnnLora
from lib.packed.onednn_layers import use_onednn
from lib.packed.pack import PADDING, pack
from lib.packed.rotary import _Rotate
from lib.packed.scoring import PackedScorer, project_logprobs

needs_kernels = pytest.mark.skipif(not kernels.suits(torch.zeros(1)), reason="no compiler makes the kernels here")
# Of bf16, one rounding of the result: everything between is fp32.
NEAR = {torch.float32: dict(rtol=1e-5, atol=1e-6), torch.bfloat16: dict(rtol=2**-7, atol=2**-9)}
TYPES = pytest.mark.parametrize("dtype", list(NEAR))


def values_and_gradients(function, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """In fp32: function(*inputs), and the gradients of its product with fixed numbers, computed in `dtype`."""
    given = [states.detach().to(dtype).requires_grad_() for states in inputs]
    out = function(*given)
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape).bfloat16().to(dtype)  # the same in every type
    return [out.float(), *(gradient.float() for gradient in torch.autograd.grad(out, given, upstream))]


def assert_as_in_fp64(ours, theirs, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """`ours` in `dtype` as near to `theirs` in fp64 as roundings of inputs and results in `dtype` allow."""
    inputs = [states.to(dtype) for states in inputs]
    expected = values_and_gradients(theirs, inputs, torch.float64)
    for mine, exact in zip(values_and_gradients(ours, inputs, dtype), expected, strict=True):
        torch.testing.assert_close(mine, exact.float(), **NEAR[dtype])


@needs_kernels
@TYPES
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("width", [5, 64, 576])
def test_a_norm_equals_transformers(kind, width, dtype):
    torch.manual_seed(0)
    exact = kind(width).requires_grad_(False)
    nn.init.normal_(exact.weight)
    exact = exact.to(dtype)
    ours = use_onednn(nn.Sequential(copy.deepcopy(exact)))[0]
    assert type(ours) is not kind and isinstance(ours, kind) and ours.state_dict().keys() == exact.state_dict().keys()
    epsilon, offset = (1e-6, 0.0) if kind is LlamaRMSNorm else (1e-6, 1.0)

    def plain(states: Tensor) -> Tensor:
        return states / (states.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * (exact.weight.double() + offset)

    assert_as_in_fp64(ours, plain, [torch.randn(3, 7, width)], dtype)


def test_a_norm_that_is_trained_is_left_to_pytorch():
    norm = use_onednn(nn.Sequential(LlamaRMSNorm(8)))[0]
    states = torch.randn(3, 8)
    norm(states).sum().backward()
    torch.testing.assert_close(norm.weight.grad, (states / (states.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()).sum(0))


@needs_kernels
@TYPES
@pytest.mark.parametrize("activation", [SiLUActivation(), nn.SiLU(), GELUTanh(), nn.ReLU()])
def test_a_gated_layer_equals_transformers(activation, dtype):
    """An activation that the kernels do not know is its own. Large inputs saturate and stay finite."""
    torch.manual_seed(0)
    layer = tiny_model("llama").model.layers[0].mlp
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(layer, name, nn.Identity())
    layer.act_fn = activation
    assert type(layer) is LlamaMLP
    ours = use_onednn(nn.Sequential(layer))[0]
    states = torch.cat([torch.randn(5, 37) * 3, torch.tensor([[-200.0, -90.0, 90.0, 200.0] + [0.0] * 33])])
    plain = {GELUTanh: lambda x: F.gelu(x, approximate="tanh"), nn.ReLU: F.relu}.get(type(activation), F.silu)
    assert_as_in_fp64(ours, lambda x: plain(x) * x, [states], dtype)


@needs_kernels
@TYPES
def test_a_rotation_equals_transformers(dtype):
    torch.manual_seed(0)
    angles = torch.rand(2, 7, 8) * 6
    cos, sin = (torch.cat([table, table], -1).to(dtype) for table in (angles.cos(), angles.sin()))

    def plain(states: Tensor) -> Tensor:
        heads = states.transpose(1, 2)
        return apply_rotary_pos_emb(heads, heads, cos.double(), sin.double())[0]

    assert_as_in_fp64(lambda states: _Rotate.apply(states, cos, sin), plain, [torch.randn(2, 7, 3, 16)], dtype)


@needs_kernels
@TYPES
def test_attention_of_a_packed_row_equals_plain_softmax(dtype):
    """Three queries to a key head, values that lie in strides, in blocks."""
    torch.manual_seed(0)
    visible = (torch.rand(2, 1, 100, 100) < 0.7).tril() | torch.eye(100, dtype=torch.bool)
    mask = torch.where(visible, 0.0, torch.finfo(dtype).min / 2).to(dtype)
    inputs = [torch.randn(2, 6, 100, 8), torch.randn(2, 2, 100, 8), torch.randn(2, 100, 2, 5)]

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = key.repeat_interleave(3, 1), value.transpose(1, 2).repeat_interleave(3, 1)
        return ((query @ key.transpose(2, 3) * 0.3 + mask).softmax(-1) @ value).transpose(1, 2)

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return onednn_attention(nn.Module(), query, key, value.transpose(1, 2), mask, scaling=0.3)[0]

    found, exact = (
        values_and_gradients(way, [states.to(dtype) for states in inputs], kind)
        for way, kind in ((ours, dtype), (plain, torch.float64))
    )
    for mine, theirs in zip(found, exact, strict=True):  # in bf16 scores and probabilities are rounded as well
        bound = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(mine, theirs.float(), rtol=bound, atol=bound)


@needs_kernels
@TYPES
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_an_adapters_layer_equals_its_formula(rate, dtype):
    """With the same elements dropped, as known from what the dropout makes of ones."""
    torch.manual_seed(0)
    holder = make_policy(tiny_model("llama", hidden_size=48), 4, 8, rate, checkpointing=False)
    layer = use_onednn(holder).get_base_model().model.layers[0].mlp.up_proj.train()
    assert isinstance(layer, OneDnnLora) and layer.base_layer.weight.dtype == torch.float32
    layer.base_layer.weight.data = layer.base_layer.weight.data.to(dtype)
    lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(lora_b)
    states = torch.randn(2, 9, 48).to(dtype)
    torch.manual_seed(1)
    kept = Drop(rate)(torch.ones(2, 9, 48)) if rate else torch.ones(2, 9, 48)
    results = []
    for ours in (True, False):
        given = states.clone().requires_grad_() if ours else states.double().requires_grad_()
        torch.manual_seed(1)
        a, b = (lora_a, lora_b) if ours else (weight.detach().double().requires_grad_() for weight in (lora_a, lora_b))
        out = layer(given) if ours else given @ layer.base_layer.weight.double().t() + given * kept @ a.t() @ b.t() * 2
        out.square().sum().backward()
        results.append([value.float() for value in (out, given.grad, a.grad, b.grad)])
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact, rtol=bound, atol=bound * exact.abs().max().item())


@needs_kernels
def test_what_is_dropped_does_not_depend_on_the_number_of_threads():
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            results.append(CheapDropout(0.3)(torch.ones(300, 200)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "dtype, family", [(torch.float32, "llama"), (torch.float32, "qwen3"), (torch.bfloat16, "llama")]
)
def test_without_a_compiler_everything_is_pytorchs(dtype, family, encode, monkeypatch, capsys):
    batch = pack(encode(rows(2)))
    policy = use_onednn(make_policy(tiny_model(family), 4, 8, 0.0, checkpointing=False)).eval()
    for name, parameter in policy.named_parameters():
        parameter.data = parameter.data if "lora_" in name else parameter.data.to(dtype)

    def logprobs() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return PackedScorer(policy)(batch)

    compiled = logprobs()
    kernels._functions.cache_clear()

    def refuse(*_, **__):
        raise subprocess.CalledProcessError(1, "c++")

    monkeypatch.setattr(kernels, "_compiled", refuse)
    try:
        assert not kernels.suits(torch.zeros(1))
        assert "note: kernels.cpp is not compiled (Command 'c++' returned" in capsys.readouterr().err
        tolerance = dict(rtol=1e-5, atol=1e-4) if dtype == torch.float32 else dict(rtol=0.05, atol=0.5)
        torch.testing.assert_close(logprobs(), compiled, **tolerance)
    finally:
        kernels._functions.cache_clear()


@needs_kernels
def test_nan_stays_nan():
    """A loss that is not finite has to be seen."""
    broken = torch.tensor([[float("nan"), 1.0, 2.0]])
    head = nn.Linear(3, 50, bias=False).requires_grad_(False)
    assert project_logprobs(broken, torch.tensor([4]), head).isnan().all()
    norm = use_onednn(nn.Sequential(LlamaRMSNorm(3).requires_grad_(False)))
    assert norm(broken).isnan().all() and norm(broken.bfloat16()).isnan().all()
    assert Drop(0.5)(broken.bfloat16().expand(40, 3).contiguous()).isnan().any()


def test_parts_of_a_batch_hold_every_row_once_and_little_padding(encode):
    batch = pack(encode(rows(5) + rows(2, num_candidates=9, start=50)))
    lengths = -(-(batch.segment_ids != PADDING).sum(1) // 4) * 4
    for most in (1, 3 * int(lengths.max()), 10**6):
        parts = batch.parts(most, 4)
        assert sorted(place for places, _ in parts for place in places) == list(range(7))
        for places, part in parts:
            assert len(places) == 1 or part.input_ids.numel() <= most
            for name, tensor in part.tensors().items():
                own, width = getattr(batch, name)[places], tensor.shape[1]
                assert torch.equal(own[:, :width], tensor[:, : own.shape[1]]) and width % 4 == 0
            assert part.input_ids.shape[1] == lengths[places].max()
            assert (part.cand_index != PADDING).sum() == (batch.cand_index[places] != PADDING).sum()
