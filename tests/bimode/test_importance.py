"""Importance sampling by hand in float64: which policy the ratio divides by, and what the weight
does beyond its cap.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bimode.config.recipe import BpoConfig
from bimode.rl.loss import (
    Behavior,
    Decoupled,
    Importance,
    LossInputs,
    Truncated,
    importance_of,
    policy_loss,
)

NAN = math.nan


def log(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


# Token:          1      2     3     4      5 was not drawn by the engine
# pi / behavior  1.2    3.0   0.6   12.0
# pi_prox / beh.  1.0    2.5   0.5   6.0
# pi / pi_prox    1.2    1.2   1.2   2.0    0.5
BEHAVIOR = torch.cat([log(0.1, 0.1, 0.1, 0.1), torch.tensor([NAN], dtype=torch.float64)])
PROXIMAL = log(0.1, 0.25, 0.05, 0.6, 0.4)
NOW = (0.12, 0.3, 0.06, 1.2, 0.2)
ADVANTAGES = torch.tensor([1.0, -1.0, 2.0, -1.0, 1.0], dtype=torch.float64)


def inputs_of(logprobs_N: Tensor, proximal_N: Tensor | None = PROXIMAL) -> LossInputs:
    ones_N = torch.ones_like(logprobs_N)
    return LossInputs(logprobs_N, ones_N, BEHAVIOR, None, ADVANTAGES, ones_N, proximal_N)


# The surrogates min(rho A, clip(rho, .7, 1.3) A) and where the unclipped side counts, so that
# d/dlogp = rho A; times u.
CASES = {
    # rho 1.2, 3, .6, 12, .5:   1.2 | -3 | min(1.2, 1.4) | -12 | .5
    "behavior": (Behavior(), [1.2, -3.0, 1.2, -12.0, 0.5], [1.2, -3.0, 1.2, -12.0, 0.5], 0),
    # rho 1.2, 1.2, 1.2, 2, .5: 1.2 | -1.2 | 2.4 | -2 | .5    u = 1, 2 (of 2.5), .5, 2 (of 6), 1
    "truncated": (Truncated(2.0), [1.2, -2.4, 1.2, -4.0, 0.5], [1.2, -2.4, 1.2, -4.0, 0.5], 2),
    # the same rho                                             u = 1, 2.5, .5, 0 (of 6), 1
    "decoupled": (Decoupled(5.0), [1.2, -3.0, 1.2, 0.0, 0.5], [1.2, -3.0, 1.2, 0.0, 0.5], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_by_hand(name: str) -> None:
    importance, surrogates, slopes, capped = CASES[name]
    logprobs_N = log(*NOW).requires_grad_()
    out = policy_loss(0.3, 0.3, 0.0, importance)(inputs_of(logprobs_N), 10.0)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-sum(surrogates) / 10, abs=1e-12)
    assert logprobs_N.grad.tolist() == pytest.approx([-slope / 10 for slope in slopes], abs=1e-12)
    assert out.values["capped"].sum() == capped
    assert out.values["sampled"].tolist() == [1, 1, 1, 1, 0]


def test_a_clipped_token_stays_clipped_under_its_weight() -> None:
    """rho = 1.5 with A > 0 gives 1.3 u A and no gradient; the weight may not open the clip, nor the
    clip the weight.
    """
    logprobs_N = log(0.15).requires_grad_()
    ones_N = torch.ones(1, dtype=torch.float64)
    inputs = LossInputs(logprobs_N, ones_N, log(0.2), None, ones_N, ones_N, log(0.1))
    out = policy_loss(0.3, 0.3, 0.0, Truncated(2.0))(inputs, 1.0)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-0.5 * 1.3, abs=1e-12)
    assert logprobs_N.grad.tolist() == [0.0]
    assert out.values["clipped_high"].item() == 1


@pytest.mark.parametrize(
    "importance", [Behavior(), Truncated(2.0), Decoupled(5.0)], ids=lambda i: type(i).__name__
)
def test_gradient_equals_finite_differences(importance: Importance) -> None:
    torch.manual_seed(0)
    logprobs_N = -3 * torch.rand(5, dtype=torch.float64)
    loss = policy_loss(0.2, 0.28, 0.0, importance)
    assert torch.autograd.gradcheck(
        lambda x: loss(inputs_of(x), 7.0).loss, logprobs_N.requires_grad_()
    )


@pytest.mark.parametrize(
    "importance", [Truncated(2.0), Decoupled(5.0)], ids=lambda i: type(i).__name__
)
def test_without_proximal_the_current_policy_stands_in_for_it(importance: Importance) -> None:
    """With one update a step that is exact: equal to handing the current log-probabilities over as
    the proximal ones.
    """
    grads = []
    for proximal_N in (None, log(*NOW)):
        logprobs_N = log(*NOW).requires_grad_()
        out = policy_loss(0.2, 0.2, 0.0, importance)(inputs_of(logprobs_N, proximal_N), 10.0)
        out.loss.backward()
        grads.append(logprobs_N.grad)
    # rho = 1, so d/dlogp = -u A: the weights of pi / behavior = 1.2, 3, .6, 12 and 1 where nothing
    # was drawn
    cap = {2.0: [1.2, 2.0, 0.6, 2.0, 1.0], 5.0: [1.2, 3.0, 0.6, 0.0, 1.0]}[importance.cap]  # type: ignore[attr-defined]
    assert grads[0].tolist() == pytest.approx(
        [-u * a / 10 for u, a in zip(cap, ADVANTAGES.tolist(), strict=True)]
    )
    assert torch.equal(grads[0], grads[1])


def test_a_rejected_token_keeps_its_kl_and_its_place_in_the_denominator() -> None:
    logprobs_N, ones_N = log(0.6).requires_grad_(), torch.ones(1, dtype=torch.float64)
    inputs = LossInputs(
        logprobs_N, ones_N, log(0.1), log(0.3), ones_N, ones_N
    )  # weight 6, r = pi_ref / pi = 1/2
    out = policy_loss(0.2, 0.2, 0.5, Decoupled(5.0))(inputs, 4.0)
    assert out.loss.item() == pytest.approx(0.5 * (0.5 + math.log(2) - 1) / 4, abs=1e-12)


def test_the_recipe_names_them() -> None:
    assert importance_of(BpoConfig()) == Behavior()
    assert importance_of(BpoConfig(importance="truncated", importance_cap=3.0)) == Truncated(3.0)
    assert importance_of(BpoConfig(importance="decoupled", importance_reject=4.0)) == Decoupled(4.0)
