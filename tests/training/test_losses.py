"""The objectives against closed forms, each other, hand-worked cases and finite differences."""

import math
import re
from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

import lib.training.losses
from lib.training.losses import LOSSES, LossOptions

OPTIONS = LossOptions()
GRADED = torch.tensor([[9.0, 7.0, 1.0, 0.0, 3.0]], dtype=torch.float64)  # mean 4: two positives


def loss(name: str, scores: torch.Tensor, rewards: torch.Tensor, mask: torch.Tensor | None = None, **options):
    """The named loss [B]; the mean reward is that of the candidates `mask` leaves."""
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    mean = (rewards * mask).sum(1) / mask.sum(1)
    return LOSSES[name].loss(scores, mask, rewards, mean, LossOptions(**options))


def one_hot(positives: list[int], width: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(positives), width).double()


def fp64(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_scores(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_sdpo_is_the_closed_form():
    scores = fp64([[0.3, -1.2, 0.9, 2.0], [1.0, 0.5, -0.5, 0.1]])
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = [log(1 + sum(exp(d - 0.9) for d in (0.3, -1.2, 2.0))), log(1 + sum(exp(d - 1.0) for d in (0.5, -0.5)))]
    assert loss("sdpo", scores, one_hot([2, 0], 4), mask).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_negatives", [1, 2, 4, 9])
@pytest.mark.parametrize(
    ("name", "at_step_0"),
    [
        ("sdpo", lambda k: log(k + 1)),
        ("dpo-best", lambda k: log(2)),
        ("dpo-pairs", lambda k: log(2)),
        ("infonca", lambda k: log(k + 1)),
        ("nca", lambda k: 2 * log(2)),
    ],
)
def test_losses_start_where_they_must(name, at_step_0, num_negatives):
    zeros = torch.zeros(1, num_negatives + 1)
    assert loss(name, zeros, one_hot([0], num_negatives + 1)).item() == pytest.approx(
        at_step_0(num_negatives), abs=1e-6
    )


@pytest.mark.parametrize("name", ["sdpo", "dpo", "dpo-pairs", "dpo-best"])
def test_one_negative_makes_it_dpo(name):
    scores = random_scores(32, 2)
    torch.testing.assert_close(loss(name, scores, one_hot([1] * 32, 2)), -F.logsigmoid(scores[:, 1] - scores[:, 0]))


def test_pairs_are_those_of_different_rewards():
    scores, rewards = random_scores(1, 4), fp64([[2.0, 5.0, 2.0, 5.0]])
    a, b, c, d = scores[0].tolist()

    def dpo(winner, loser):
        return log(1 + exp(loser - winner))

    pairs = (dpo(b, a) + dpo(b, c) + dpo(d, a) + dpo(d, c)) / 4
    assert loss("dpo-pairs", scores, rewards).item() == pytest.approx(pairs, abs=1e-12)
    assert loss("dpo-best", scores, rewards).item() == pytest.approx((dpo(b, a) + dpo(b, c)) / 2, abs=1e-12)


def test_infonca_tends_to_sdpo_as_its_targets_become_one_hot():
    scores, rewards = random_scores(8, 5), random_scores(8, 5).flip(1)
    cold = loss("infonca", scores, rewards, reward_temperature=1e-6)
    torch.testing.assert_close(cold, loss("sdpo", scores, rewards), rtol=0, atol=1e-12)


def test_infonca_and_nca_by_hand():
    scores, rewards = fp64([[0.5, -0.25]]), fp64([[log(3), 0.0]])
    targets = (0.75, 0.25)
    total = exp(0.5) + exp(-0.25)
    infonca = -sum(t * log(exp(s) / total) for t, s in zip(targets, (0.5, -0.25), strict=True))
    assert loss("infonca", scores, rewards).item() == pytest.approx(infonca, abs=1e-12)
    nca = -sum(
        t * log(1 / (1 + exp(-s))) + 0.5 * log(1 / (1 + exp(s))) for t, s in zip(targets, (0.5, -0.25), strict=True)
    )
    assert loss("nca", scores, rewards).item() == pytest.approx(nca, abs=1e-12)
    # A pair of preferences, as Huayu Chen et al. write it for one-hot targets.
    pair = -F.logsigmoid(scores[0, 0]) - 0.5 * F.logsigmoid(-scores[0]).sum()
    torch.testing.assert_close(loss("nca", scores, rewards, reward_temperature=1e-6)[0], pair)


@pytest.mark.parametrize("options", [dict(power=0), dict(weighting="exp", alpha=0.0)])
def test_swepo_with_one_positive_and_equal_weights_is_sdpo(options):
    scores, rewards = random_scores(8, 5), one_hot([0, 1, 2, 3, 4, 0, 1, 2], 5)
    torch.testing.assert_close(loss("swepo", scores, rewards, **options), loss("sdpo", scores, rewards))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        (dict(power=0), (1, 1, 1, 1, 1)),
        (dict(power=1), (5, 3, 3, 4, 1)),
        (dict(power=2), (25, 9, 9, 16, 1)),
        (dict(weighting="exp", alpha=0.5), (exp(2.5), exp(1.5), exp(1.5), exp(2), exp(0.5))),
    ],
)
def test_swepo_with_two_positives_by_hand(options, weights):
    scores = (0.2, -0.4, 1.1, 0.6, -0.9)
    terms = [weight * exp(score) for weight, score in zip(weights, scores, strict=True)]
    expected = -log((terms[0] + terms[1]) / sum(terms))
    found = loss("swepo", fp64([scores]), GRADED, **options)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("options", [dict(power=0), dict(power=1), dict(power=2), dict(weighting="exp", alpha=0.5)])
def test_swepo_gradient_lemma(options):
    """SWEPO's lemma 5.3, candidate by candidate: dLoss/ds_i = P_i - P+_i, where P is the weighted softmax over all
    candidates and P+ that over the positives alone."""
    rewards = fp64([[9.0, 7.0, 1.0, 0.0, 3.0], [0.0, 2.0, 2.5, 1.0, 2.0]])
    scores = random_scores(2, 5).requires_grad_()
    loss("swepo", scores, rewards, **options).sum().backward()
    for own, row, gradient in zip(scores.tolist(), rewards.tolist(), scores.grad.tolist(), strict=True):
        mean = sum(row) / len(row)
        gaps = [abs(reward - mean) for reward in row]
        weights = [exp(0.5 * gap) if "weighting" in options else gap ** options["power"] for gap in gaps]
        terms = [weight * exp(score) for weight, score in zip(weights, own, strict=True)]
        positive = [term * (reward > mean) for term, reward in zip(terms, row, strict=True)]
        expected = [t / sum(terms) - p / sum(positive) for t, p in zip(terms, positive, strict=True)]
        assert gradient == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_a_weight_of_0_leaves_the_sum_but_0_to_the_power_0_is_1(power):
    """The middle candidate's reward is the mean."""
    scores = torch.tensor([[0.3, 0.7, -0.2]], dtype=torch.float64, requires_grad=True)
    found = loss("swepo", scores, fp64([[2.0, 1.0, 0.0]]), power=power)
    middle = exp(0.7) if power == 0 else 0.0
    assert found.item() == pytest.approx(-log(exp(0.3) / (exp(0.3) + exp(-0.2) + middle)), abs=1e-12)
    found.backward()
    assert (scores.grad[0, 1] == 0) == (power > 0)


def test_deviations_are_from_the_mean_of_the_whole_question():
    """Only the candidates of reward 9 and 1 are drawn, of a question whose mean is 4: weights 5 and 3."""
    scores = fp64([[0.2, 1.1]])
    drawn = GRADED[:, [0, 2]]
    mean = GRADED.mean(1)
    found = LOSSES["swepo"].loss(scores, torch.ones(1, 2, dtype=torch.bool), drawn, mean, OPTIONS)
    assert found.item() == pytest.approx(-log(5 * exp(0.2) / (5 * exp(0.2) + 3 * exp(1.1))), abs=1e-12)


def test_listwise_and_sft_are_cross_entropies_of_log_probs():
    logprobs = random_scores(6, 5) - 5
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    rewards = F.one_hot(targets, 5).double()
    torch.testing.assert_close(
        loss("listwise", logprobs, rewards), F.cross_entropy(logprobs, targets, reduction="none")
    )
    torch.testing.assert_close(loss("sft", logprobs, rewards), -logprobs[torch.arange(6), targets])


GRADIENT_OPTIONS = [{}, dict(power=0), dict(power=2), dict(weighting="exp"), dict(reward_temperature=0.3)]


@pytest.mark.parametrize("options", GRADIENT_OPTIONS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name, options):
    scores = random_scores(5, 5).requires_grad_()
    mask = torch.tensor([[True] * 5] * 4 + [[True, True, True, False, False]])
    rewards = torch.cat([one_hot([0, 4], 5), GRADED, GRADED.roll(2, 1), torch.tensor([[1.0, 2, 6, 50, 50]])])
    assert torch.autograd.gradcheck(lambda value: loss(name, value, rewards, mask, **options), scores)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("margin", [-200.0, 200.0])
@pytest.mark.parametrize("rewards", [[1.0, 0.0, 0.0], [3.0, 2.0, 1.0]])  # in the second a weight is 0
def test_gradients_are_finite_at_large_margins(name, margin, rewards):
    scores = torch.tensor([[margin, 0.0, -margin]], requires_grad=True)
    found = loss(name, scores, fp64([rewards]))
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_candidate_the_question_lacks_changes_nothing(name):
    scores = torch.tensor([[0.4, -0.2, 1.0]])
    padded = torch.tensor([[0.4, -0.2, 1.0, 55.0]])
    mask = torch.tensor([[True, True, True, False]])
    short = loss(name, scores, fp64([[1.0, 2.0, 6.0]]))
    long = loss(name, padded, fp64([[1.0, 2.0, 6.0, 99.0]]), mask)
    torch.testing.assert_close(short, long)


@pytest.mark.parametrize("name", LOSSES)
def test_more_score_for_the_best_is_less_loss(name):
    scores = fp64([[0.1, -0.3, 0.2, 0.0, -0.1]])
    better = scores + torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0]])
    assert (
        loss(name, better, GRADED, reward_temperature=0.5).item()
        < loss(name, scores, GRADED, reward_temperature=0.5).item() - 1e-3
    )


def test_losses_are_one_number_a_question_and_never_nan_on_nothing_to_compare():
    equal = torch.ones(2, 3, dtype=torch.float64)
    for name in LOSSES:
        found = loss(name, random_scores(2, 3), equal)
        assert found.shape == (2,) and not any(map(math.isnan, found.tolist()))


def test_the_loss_that_contributing_adds_is_one(monkeypatch):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    function, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len((function + test).strip().splitlines()) <= 15
    exec(function, module := vars(lib.training.losses) | {"LOSSES": {}})
    monkeypatch.setitem(LOSSES, "ipo", module["LOSSES"]["ipo"])
    exec(test + "\ntest_ipo_is_0_at_a_gap_of_one_half()", globals() | {})
    test_gradients_equal_finite_differences("ipo", {})
    test_a_candidate_the_question_lacks_changes_nothing("ipo")
