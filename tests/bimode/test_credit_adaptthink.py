"""AdaptThink: the advantage over the starting policy, and a forced choice that counts as drawn with
probability 1/2.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bimode.algorithms.base import sequence_credit
from bimode.errors import IncompleteGroupError
from bimode.modes import Mode
from bimode.rl.credit import assign
from bimode.rl.loss import LossInputs, policy_loss
from tests.rollouts import completion, config, paired

HALF = math.log(0.5)


def test_adaptthink_by_hand() -> None:
    """Reference .5, delta .05, thinking (1, 0), direct (1, 1): A = .5, -.5, .55, .55; the decision
    has them too.
    """
    samples = assign(
        [replace(paired([1, 0], [1, 1]), reference_reward=0.5)], config("adaptthink")
    ).samples
    assert samples[0].advantages_T == (0.5,) * 5 and samples[1].advantages_T == (-0.5,) * 5
    assert samples[2].advantages_T == pytest.approx((0.55, 0, 0.55, 0.55))
    assert samples[0].loss_mask_T == (0.2,) * 5
    assert samples[2].loss_mask_T == pytest.approx((1 / 3, 0, 1 / 3, 1 / 3)), (
        "the forced </think> is no action"
    )


def test_forced_as_sampled_is_the_behavior_of_forced_decisions_alone() -> None:
    samples = assign(
        [replace(paired([1, 0], [1, 1]), reference_reward=0.5)], config("adaptthink")
    ).samples
    assert samples[0].behavior_logprobs_T == (HALF, -0.5, -0.5, -0.5, -0.5)
    assert samples[2].behavior_logprobs_T[0] == HALF and math.isnan(
        samples[2].behavior_logprobs_T[1]
    )
    free = assign(
        [paired([1], [0], auto=[1, 0])], config("per_mode", "forced_as_sampled", self_routed=0.5)
    ).samples
    assert [s.behavior_logprobs_T[0] for s in free] == [
        HALF,
        HALF,
        -0.5,
        -0.5,
    ], "a sampled choice keeps its own"
    assert math.isnan(
        sequence_credit(completion(Mode.AUTO, 2), 1.0, "forced_as_sampled").decision_logprob
    )


@pytest.mark.parametrize(("probability", "counts"), [(0.4, 0.8), (0.55, 1.1), (0.9, 1.2)])
def test_the_ratio_of_the_decision_is_pi_over_a_half_and_clipped(
    probability: float, counts: float
) -> None:
    """A = .5 > 0: the objective is .5 min(pi / .5, 1.2)."""
    sample, *_ = assign(
        [replace(paired([1, 0], [1, 1]), reference_reward=0.5)], config("adaptthink")
    ).samples
    one = torch.ones(1, dtype=torch.float64)
    inputs = LossInputs(
        one * math.log(probability),
        one,
        one * sample.behavior_logprobs_T[0],
        None,
        one * sample.advantages_T[0],
        one,
    )
    assert policy_loss(0.2, 0.2, 0.0)(inputs, 1.0).loss.item() == pytest.approx(-0.5 * counts)


def test_without_a_reference_nothing_is_credited() -> None:
    with pytest.raises(IncompleteGroupError, match="prompt q: no reward of the starting policy"):
        assign([paired([1, 0], [1, 1])], config("adaptthink"))
