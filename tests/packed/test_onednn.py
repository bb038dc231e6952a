"""oneDNN's layers and the frozen projection: the values and gradients of what they stand in for."""

import copy

import pytest
import torch
from conftest import rows, tiny_model
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import lib.packed.onednn
import lib.packed.scoring
from lib.models.loading import make_policy
from lib.packed.attention import onednn_attention
from lib.packed.dropout import CheapDropout
from lib.packed.lora import OneDnnLora
from lib.packed.onednn_layers import OneDnnLinear, use_onednn
from lib.packed.pack import pack
from lib.packed.scoring import PackedScorer, project_logprobs


# oneDNN's products, and twice MKL's.
@pytest.fixture(params=["AuthenticAMD avx2 avx512f", "GenuineIntel avx2 avx512f", "AuthenticAMD avx2"])
def on_any_processor(request, monkeypatch):
    monkeypatch.setattr(lib.packed.onednn, "_processor", lambda: frozenset(request.param.split()))


@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias")])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_pytorchs(bias, frozen, on_any_processor):
    torch.manual_seed(0)
    theirs = nn.Linear(24, 10, bias=bias)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name not in frozen)
    ours = use_onednn(copy.deepcopy(theirs))
    assert type(ours) is OneDnnLinear and ours.state_dict().keys() == theirs.state_dict().keys()
    states = torch.randn(2, 7, 24)
    results = []
    for layer in (ours, theirs):
        given = states.clone().requires_grad_()
        output = layer(given)
        (output**2).sum().backward()
        results.append([output, given.grad, *(parameter.grad for parameter in layer.parameters())])
    for mine, other in zip(*results, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other)


def test_bf16_and_autocast_are_left_to_pytorch():
    layer = nn.Linear(24, 10)
    ours, states = use_onednn(copy.deepcopy(layer)), torch.randn(3, 24)
    torch.testing.assert_close(ours.bfloat16()(states.bfloat16()), layer.bfloat16()(states.bfloat16()), rtol=0, atol=0)
    ours, layer = ours.float(), layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(states).dtype == layer(states).dtype == torch.bfloat16


@pytest.mark.parametrize("tokens", [7, 25, 4096])
def test_a_frozen_projections_gradient_equals_autograds(monkeypatch, tokens):
    monkeypatch.setattr(lib.packed.scoring, "PROJECTION_SLICE", tokens)
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False)
    states, targets, upstream = torch.randn(8, 16), torch.randint(50, (8,)), torch.randn(8)
    results = []
    for trained in (True, False):  # a trained projection takes the way of autograd
        head.weight.requires_grad_(trained)
        given = states.clone().requires_grad_()
        logprobs = project_logprobs(given, targets, head)
        (logprobs * upstream).sum().backward()
        results.append((logprobs, given.grad))
        with torch.no_grad():
            torch.testing.assert_close(project_logprobs(states, targets, head), logprobs, rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1], results[0])


def test_a_frozen_projection_of_large_logits_neither_overflows_nor_vanishes(monkeypatch):
    monkeypatch.setattr(lib.packed.scoring, "PROJECTION_SLICE", 2)
    head = nn.Linear(1, 5, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[-500.0], [300.0], [-900.0], [299.0], [-300.0]]))
    rows, targets = torch.ones(3, 1), torch.tensor([1, 3, 2])
    expected = torch.log_softmax(head.weight.double().T, -1)[0, targets]
    torch.testing.assert_close(project_logprobs(rows, targets, head).double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("length", [2, 9, 100])
@pytest.mark.parametrize("heads, key_heads, of_value", [(4, 4, 8), (6, 2, 8), (4, 4, 5)])
def test_attention_equals_pytorchs(heads, key_heads, of_value, length, is_causal, on_any_processor):
    """Of all heads in one call, and of one key head at a time."""
    torch.manual_seed(0)
    visible = torch.rand(2, 1, length, length) < 0.7
    if is_causal:
        visible = visible.tril() | torch.eye(length, dtype=torch.bool)
    mask = torch.where(visible, 0.0, -1e30)
    sizes = ((heads, 8), (key_heads, 8), (key_heads, of_value))
    states = [torch.randn(2, count, length, width, requires_grad=True) for count, width in sizes]
    module = nn.Module()
    module.num_key_value_groups = heads // key_heads
    upstream = torch.randn(2, length, heads, of_value)
    results = []
    for attend, known in ((onednn_attention, {"is_causal": is_causal}), (sdpa_attention_forward, {})):
        mixed, _ = attend(module, *states, mask, scaling=0.3, **known)
        results.append([mixed, *torch.autograd.grad(mixed, states, upstream)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_adapters_layer_equals_pefts(encode):
    """With its adapter on, off, and merged."""
    batch = pack(encode(rows(1)))
    torch.manual_seed(0)
    theirs = make_policy(tiny_model(), 4, 8, 0.0, checkpointing=False).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    ours = use_onednn(copy.deepcopy(theirs))
    assert any(isinstance(module, OneDnnLora) for module in ours.modules())
    assert ours.state_dict().keys() == theirs.state_dict().keys()

    def logprobs(policy):
        with torch.no_grad():
            return PackedScorer(policy)(batch)

    def off(policy):
        with policy.disable_adapter():
            return logprobs(policy)

    def merged(policy):
        policy.merge_adapter()
        scored = logprobs(policy)
        policy.unmerge_adapter()
        return scored

    scored = [way(policy) for way in (logprobs, off, merged) for policy in (ours, theirs)]
    assert (scored[0] - scored[2]).abs().max() > 0.01  # the adapter matters
    for mine, other in zip(scored[::2], scored[1::2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_policys_gradients_equal_pytorchs(encode):
    batch = pack(encode(rows(2)))
    gradients = []
    for prepare in (use_onednn, lambda model: model):
        torch.manual_seed(0)
        policy = prepare(make_policy(tiny_model(), 4, 8, 0.0, checkpointing=False))
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        PackedScorer(policy)(batch).square().sum().backward()
        gradients.append(
            {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-3 * gradients[1][name].abs().max())


def test_text_is_generated_as_by_pytorch():
    """With a cache and without the packed mask, attention is PyTorch's own."""
    model = tiny_model()
    given = {"input_ids": torch.tensor([[5, 6, 7], [0, 9, 10]]), "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}
    written = [
        way.generate(**given, max_new_tokens=6, do_sample=False, pad_token_id=0)
        for way in (use_onednn(copy.deepcopy(model)), model)
    ]
    assert torch.equal(*written) and written[0].shape == (2, 9)


def test_checkpointing_and_an_adapters_dropout_change_no_gradient(encode):
    """In training, with the last layer narrowed and every other computed anew."""
    batch, gradients = pack(encode(rows(2))), []

    def the_same_draws_alone(policy):
        for module in policy.modules():
            if type(module) is nn.Dropout:
                module.__class__ = CheapDropout
        return policy

    for prepare, checkpointing in ((use_onednn, True), (use_onednn, False), (the_same_draws_alone, False)):
        torch.manual_seed(0)
        policy = prepare(make_policy(tiny_model(), 4, 8, 0.3, checkpointing=checkpointing)).train()
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        torch.manual_seed(1)
        PackedScorer(policy)(batch).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in policy.named_parameters()})
    for name, gradient in gradients[-1].items():
        for others in gradients[:-1]:
            if gradient is None:
                assert others[name] is None
            else:
                torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


def test_a_frozen_projection_in_bf16_is_as_near_as_bf16_goes():
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).requires_grad_(False)
    states, targets = torch.randn(8, 64), torch.randint(500, (8,))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        given = states.clone().to(dtype).detach().requires_grad_()
        logprobs = project_logprobs(given, targets, copy.deepcopy(head).to(dtype))
        logprobs.sum().backward()
        results.append((logprobs, given.grad.float()))
    assert results[1][0].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("trained", [False, True])
def test_the_targets_own_logit_is_exact_in_bf16(trained):
    """The difference of two targets' log-probs after one state is that of their logits: the normaliser leaves it. A
    product in bf16 alone is wrong by up to a sixteenth."""
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).bfloat16().requires_grad_(trained)
    head.weight.data *= 20
    states = torch.randn(1, 64).bfloat16().expand(40, -1)
    targets = torch.randint(500, (40,))
    exact = (states.double() @ head.weight.detach().double().t()).gather(1, targets[:, None]).squeeze(1)
    assert exact.abs().max() > 16
    found = project_logprobs(states.clone().requires_grad_(), targets, head).detach().double()
    torch.testing.assert_close(found - found[0], exact - exact[0], rtol=1e-5, atol=1e-4)


def test_a_sure_token_has_a_log_prob_of_almost_0_in_bf16():
    """Never above 0: the normaliser holds the same logit."""
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).bfloat16().requires_grad_(False)
    targets = torch.arange(40)
    states = (head.weight[targets].float() * 40).bfloat16()
    exact = (states.double() @ head.weight.double().t()).log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    found = project_logprobs(states, targets, head).double()
    assert exact.max() > -1e-3 and (found <= 0).all()
    torch.testing.assert_close(found, exact, rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate, dtype):
    states, module = torch.ones(3, 1001, 333, dtype=dtype, requires_grad=True), CheapDropout(rate)
    out = module(states)
    dropped = out == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=4e-3)
    torch.testing.assert_close(out[~dropped].float().mean().item(), 1 / (1 - rate), rtol=5e-3, atol=0)
    assert out.float().mean().item() == pytest.approx(1, rel=2e-2)
    # Neighbours share a draw, and nothing else.
    together = dropped.flatten().float()
    assert torch.corrcoef(torch.stack([together[:-1], together[1:]]))[0, 1].abs() < 5e-3
    out.sum().backward()
    assert torch.equal(states.grad, out)
    torch.manual_seed(1)
    first = module(states)
    torch.manual_seed(1)
    assert torch.equal(first, module(states)) and not torch.equal(first, out)
    assert torch.equal(module.eval()(states), states)


def test_adapters_take_it():
    policy = use_onednn(make_policy(tiny_model(), 4, 8, 0.1, checkpointing=False))
    kinds = {type(module) for module in policy.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {CheapDropout}
