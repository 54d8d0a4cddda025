"""Losses against arithmetic by hand (float64), their gradients, and what must not leak from tokens
without weight.
"""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

from bimode.rl.loss import Decoupled, LossInputs, LossOutput, Truncated, k3, policy_loss, sft_loss
from bimode.rl.metrics import metric_means

NAN = math.nan


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs_of(
    logprobs_N: Tensor,
    behavior_N: Tensor,
    advantages_N: Tensor,
    mask_N: Tensor | None = None,
    reference_N: Tensor | None = None,
) -> LossInputs:
    return LossInputs(
        logprobs_N=logprobs_N,
        entropy_N=torch.full_like(logprobs_N, 0.5),
        behavior_logprobs_N=behavior_N,
        reference_logprobs_N=reference_N,
        advantages_N=advantages_N,
        loss_mask_N=torch.ones_like(logprobs_N) if mask_N is None else mask_N,
    )


def sums_of(out: LossOutput) -> dict[str, float]:
    return {name: value_N.sum().item() for name, value_N in out.values.items()}


# Ratios 1.5, 0.5, 1.1, 0.5, 1.5 against clip(0.8, 1.3), as log-probabilities of a token that had
# 0.1.
RATIOS = (1.5, 0.5, 1.1, 0.5, 1.5)
ADVANTAGES = (1.0, 1.0, -2.0, -2.0, -2.0)


def test_policy_loss_by_hand() -> None:
    logprobs_N = tensor(*(math.log(0.1 * r) for r in RATIOS)).requires_grad_()
    behavior_N = torch.full((5,), math.log(0.1), dtype=torch.float64)
    out = policy_loss(0.2, 0.3, 0.0)(inputs_of(logprobs_N, behavior_N, tensor(*ADVANTAGES)), 10.0)
    out.loss.backward()
    # min(rho A, clip(rho) A):  min(1.5, 1.3) = 1.3    min(.5, .8) = .5    min(-2.2, -2.2) = -2.2
    #                           min(-1, -1.6) = -1.6   min(-3, -2.6) = -3
    # sum = 1.3 + .5 - 2.2 - 1.6 - 3 = -5.0;  loss = 5.0 / 10
    assert out.loss.item() == pytest.approx(0.5, abs=1e-12)
    # d loss / d logp = -rho A / 10 where the unclipped side is the minimum, else 0
    assert logprobs_N.grad.tolist() == pytest.approx([0.0, -0.05, 0.22, 0.0, 0.3], abs=1e-12)
    sums = sums_of(out)
    assert sums == pytest.approx(
        {
            "tokens": 5,
            "sampled": 5,
            "entropy": 2.5,
            "ratio": sum(RATIOS),
            "clipped_low": 1,
            "clipped_high": 1,
            "capped": 0,
        },
        rel=1e-6,
    )
    assert metric_means(sums)["ratio"] == pytest.approx(5.1 / 5)


def test_kl_and_weights_by_hand() -> None:
    logprobs_N = tensor(math.log(0.2), math.log(0.5)).requires_grad_()
    reference_N = tensor(math.log(0.4), math.log(0.25))  # r = 2 and 1/2
    inputs = inputs_of(
        logprobs_N, logprobs_N.detach(), tensor(1.0, -1.0), tensor(0.5, 0.25), reference_N
    )
    out = policy_loss(0.2, 0.2, 0.1)(inputs, 0.75)
    out.loss.backward()
    # k3: 2 - ln 2 - 1 = 0.306853, 0.5 + ln 2 - 1 = 0.193147
    # loss = [.5 (-1 + .1 * .306853) + .25 (1 + .1 * .193147)] / .75 = (-.484657 + .254829) / .75
    assert out.loss.item() == pytest.approx(
        (0.5 * (-1 + 0.0306853) + 0.25 * (1 + 0.0193147)) / 0.75, abs=1e-7
    )
    # d/dlogp: -A + kl (1 - r), times w / .75: (-1 - .1) .5 / .75, (1 + .05) .25 / .75
    assert logprobs_N.grad.tolist() == pytest.approx(
        [-1.1 * 0.5 / 0.75, 1.05 * 0.25 / 0.75], abs=1e-12
    )


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_gradient_equals_finite_differences(kl: float) -> None:
    torch.manual_seed(0)
    logprobs_N, noise_N, reference_N = -3 * torch.rand(3, 12, dtype=torch.float64)
    behavior_N = (logprobs_N + 0.3 * (noise_N + 1.5)).detach()
    advantages_N, mask_N = torch.randn(12, dtype=torch.float64), torch.rand(12, dtype=torch.float64)

    def loss(logprobs_N: Tensor) -> Tensor:
        inputs = inputs_of(logprobs_N, behavior_N, advantages_N, mask_N, reference_N)
        return policy_loss(0.2, 0.28, kl)(inputs, 7.0).loss

    assert torch.autograd.gradcheck(loss, logprobs_N.requires_grad_())


def test_ratio_one_is_reinforce() -> None:
    """On policy, through a softmax: the gradient is that of -A log pi, with known and with unknown
    behavior.
    """
    torch.manual_seed(1)
    logits_NV = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    targets_N, advantages_N = torch.tensor([0, 4, 2, 2, 1, 3]), torch.randn(6, dtype=torch.float64)
    logprobs_N = torch.log_softmax(logits_NV, -1)[torch.arange(6), targets_N]
    # by hand: d(-A log pi(y))/d logits = A (softmax - onehot(y))
    onehot_NV = torch.eye(5, dtype=torch.float64)[targets_N]
    expected_NV = advantages_N[:, None] * (logits_NV.detach().softmax(-1) - onehot_NV) / 6
    for behavior_N in (logprobs_N.detach(), torch.full_like(advantages_N, NAN)):
        out = policy_loss(0.2, 0.2, 0.0)(inputs_of(logprobs_N, behavior_N, advantages_N), 6.0)
        (grad_NV,) = torch.autograd.grad(out.loss, logits_NV, retain_graph=True)
        torch.testing.assert_close(grad_NV, expected_NV)
        assert out.loss.item() == pytest.approx(-advantages_N.mean().item())


def test_context_tokens_cannot_reach_loss_or_gradient() -> None:
    logprobs_N = tensor(-1.0, -math.inf, -2.0).requires_grad_()
    inputs = inputs_of(
        logprobs_N,
        tensor(-1.0, NAN, -2.0),
        tensor(1.0, NAN, 1.0),
        tensor(1.0, 0.0, 1.0),
        tensor(-1.0, 5.0, -2.0),
    )
    out = policy_loss(0.2, 0.2, 0.1)(inputs, 2.0)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-1.0)
    assert logprobs_N.grad.tolist() == pytest.approx([-0.5, 0.0, -0.5])
    assert all(value_N.isfinite().all() and value_N[1] == 0 for value_N in out.values.values())


def test_micro_batches_add_up_to_the_batch() -> None:
    torch.manual_seed(2)
    logprobs_N = (-torch.rand(9, dtype=torch.float64)).requires_grad_()
    behavior_N, advantages_N = (
        logprobs_N.detach() + 0.1 * torch.randn(9),
        torch.randn(9, dtype=torch.float64),
    )
    mask_N = torch.rand(9, dtype=torch.float64)
    total, loss = mask_N.sum().item(), policy_loss(0.2, 0.2, 0.0)
    whole = loss(inputs_of(logprobs_N, behavior_N, advantages_N, mask_N), total)
    parts = [
        loss(inputs_of(logprobs_N[at], behavior_N[at], advantages_N[at], mask_N[at]), total)
        for at in (
            slice(0, 2),
            slice(2, 2),
            slice(2, 9),
        )  # the middle one holds no token and must not be NaN
    ]
    torch.testing.assert_close(sum(p.loss for p in parts), whole.loss)
    torch.testing.assert_close(torch.cat([p.values["ratio"] for p in parts]), whole.values["ratio"])


def test_unknown_behavior_is_counted_apart() -> None:
    inputs = inputs_of(tensor(-1.0, -3.0), tensor(-1.5, NAN), tensor(1.0, 1.0))
    sums = sums_of(policy_loss(0.2, 0.2, 0.0)(inputs, 2.0))
    assert (sums["tokens"], sums["sampled"]) == (2, 1)
    assert metric_means(sums)["ratio"] == pytest.approx(math.exp(0.5))
    assert "kl" not in sums


def test_sft_by_hand() -> None:
    logprobs_N = tensor(-1.0, -2.0, -4.0).requires_grad_()
    mask_N = tensor(1.0, 0.0, 0.5)
    out = sft_loss(
        inputs_of(logprobs_N, torch.full_like(mask_N, NAN), torch.ones_like(mask_N), mask_N), 4.0
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx((1.0 + 0.5 * 4.0) / 4.0)
    assert logprobs_N.grad.tolist() == pytest.approx([-0.25, 0.0, -0.125])
    assert out.values["nll"].tolist() == [
        1.0,
        0.0,
        4.0,
    ]  # not weighted, and 0 where nothing is scored
    assert out.values["tokens"].tolist() == [1.0, 0.0, 1.0]


def test_k3_by_hand() -> None:
    assert k3(tensor(0.0, math.log(2.0))).tolist() == pytest.approx([0.0, 1 - math.log(2.0)])


def test_kl_without_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        policy_loss(0.2, 0.2, 0.1)(inputs_of(tensor(-1.0), tensor(-1.0), tensor(1.0)), 1.0)


def test_losses_travel_by_pickle() -> None:
    for loss in (
        policy_loss(0.2, 0.3, 0.01),
        policy_loss(0.2, 0.3, 0.0, Truncated(2.0)),
        policy_loss(1, 1, 0, Decoupled(5.0)),
    ):
        assert pickle.loads(pickle.dumps(loss)) == loss
    assert pickle.loads(pickle.dumps(sft_loss)) is sft_loss
