"""The objectives against closed forms, each other, and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.losses import LOSSES, sdpo


def one_hot(positives: list[int], width: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(positives), width).double()


def test_sdpo_is_the_closed_form():
    scaled = torch.tensor([[0.3, -1.2, 0.9, 2.0], [1.0, 0.5, -0.5, 0.1]], dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = [
        math.log(1 + sum(math.exp(d - 0.9) for d in (0.3, -1.2, 2.0))),
        math.log(1 + sum(math.exp(d - 1.0) for d in (0.5, -0.5))),
    ]
    assert sdpo(scaled, mask, one_hot([2, 0], 4)).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_negatives", [1, 2, 4, 9])
def test_sdpo_starts_at_ln_of_the_number_of_candidates(num_negatives):
    zeros = torch.zeros(1, num_negatives + 1)
    loss = sdpo(zeros, torch.ones_like(zeros, dtype=torch.bool), one_hot([0], num_negatives + 1))
    assert loss.item() == pytest.approx(math.log(num_negatives + 1), abs=1e-6)


def test_one_negative_makes_sdpo_dpo():
    scaled = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dpo = -F.logsigmoid(scaled[:, 1] - scaled[:, 0])
    mask = torch.ones_like(scaled, dtype=torch.bool)
    torch.testing.assert_close(sdpo(scaled, mask, one_hot([1] * 32, 2)), dpo)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_equal_finite_differences(name):
    scaled = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    mask = torch.tensor([[True] * 5] * 3 + [[True, True, True, False, False]])
    rewards = one_hot([0, 4, 2, 1], 5)
    assert torch.autograd.gradcheck(lambda value: LOSSES[name](value, mask, rewards), scaled)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("margin", [-200.0, 200.0])
def test_gradients_are_finite_at_large_margins(name, margin):
    scaled = torch.tensor([[margin, 0.0, -margin]], requires_grad=True)
    loss = LOSSES[name](scaled, torch.ones(1, 3, dtype=torch.bool), one_hot([0], 3).float())
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(scaled.grad).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_candidate_the_question_lacks_changes_nothing(name):
    scaled = torch.tensor([[0.4, -0.2, 1.0]])
    padded = torch.tensor([[0.4, -0.2, 1.0, 55.0]])
    mask = torch.tensor([[True, True, True, False]])
    short = LOSSES[name](scaled, torch.ones(1, 3, dtype=torch.bool), one_hot([1], 3))
    torch.testing.assert_close(short, LOSSES[name](padded, mask, one_hot([1], 4)))
