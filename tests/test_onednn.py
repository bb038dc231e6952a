"""oneDNN's linear layers and the frozen projection: the values and gradients of what they stand in for."""

import copy

import pytest
import torch
from conftest import rows, tiny_model
from torch import nn

import lib.scoring
from lib.models import make_policy
from lib.onednn import OneDnnLinear, use_onednn
from lib.pack import pack
from lib.scoring import PackedScorer, project_logprobs


@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias")])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_pytorchs(bias, frozen):
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


@pytest.mark.parametrize("chunk", [3, 128])
def test_a_frozen_projections_gradient_equals_autograds(monkeypatch, chunk):
    monkeypatch.setattr(lib.scoring, "CHUNK_ROWS", chunk)
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
    torch.testing.assert_close(results[1], results[0])


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
