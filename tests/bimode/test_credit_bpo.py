"""BPO as printed: the numbers of its joint group, and what it costs the weaker mode."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.rl.credit import assign
from tests.rollouts import CLOSE, DIRECT, END, THINK, WORD, config, loss_of, paired


def test_bpo_masked_is_equation_1_by_hand() -> None:
    """Rewards (1, 1), (1, 0): joint mean 3/4, sample std sqrt((3/16 + 9/16) / 3) = 1/2; right
    .25/.5, wrong -.75/.5.
    """
    samples = assign([paired([1, 1], [1, 0], length=4)], config("bpo", "masked")).samples
    right, wrong = 0.25 / 0.5001, -0.75 / 0.5001
    thinking, _, direct_right, direct_wrong = samples
    assert thinking.token_ids_T == (THINK, WORD, WORD, WORD, END)
    assert thinking.loss_mask_T == (0.0, 0.25, 0.25, 0.25, 0.25)
    assert thinking.advantages_T == pytest.approx((0.0, *[right] * 4))
    assert direct_right.token_ids_T == (DIRECT, CLOSE, WORD, END)
    assert direct_right.loss_mask_T == (0.0, 0.0, 0.5, 0.5)
    assert direct_right.advantages_T == pytest.approx((0.0, 0.0, right, right))
    assert direct_wrong.advantages_T == pytest.approx((0.0, 0.0, wrong, wrong))
    # 1/(2g) sum_k 1/|o_k| sum_t: at ratio 1 the objective is the mean advantage of the sequences,
    # here 0
    assert loss_of(samples)[0] == pytest.approx(0.0, abs=1e-12)
    assert sum(sum(s.loss_mask_T) for s in samples) == pytest.approx(4)


def test_bpo_trained_makes_the_decision_the_first_response_token() -> None:
    samples = assign([paired([1, 1], [1, 0], length=4)], config("bpo", "trained")).samples
    assert samples[0].loss_mask_T == pytest.approx([0.2] * 5)
    assert samples[3].loss_mask_T == pytest.approx(
        [1 / 3, 0.0, 1 / 3, 1 / 3]
    )  # the forced </think> stays out
    assert samples[3].advantages_T[0] == pytest.approx(-0.75 / 0.5001)
    assert math.isnan(samples[3].behavior_logprobs_T[0])


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=16, max_size=16))
def test_bpo_mean_mode_advantage(rewards: list[float]) -> None:
    """Mean advantage of the thinking half = (p_T - p_N) / (2 std): no routing signal where the
    modes tie.
    """
    samples = assign([paired(rewards[:8], rewards[8:])], config("bpo", "trained", g=8)).samples
    mean_T = np.mean([s.advantages_T[0] for s in samples[:8]])
    mean_N = np.mean([s.advantages_T[0] for s in samples[8:]])
    p_T, p_N = np.mean(rewards[:8]), np.mean(rewards[8:])
    mu = (p_T + p_N) / 2
    std = math.sqrt(mu * (1 - mu) * 16 / 15)  # sample std of 16 coin flips
    assert mean_T == pytest.approx((p_T - p_N) / (2 * (std + 1e-4)), abs=1e-12)
    assert mean_N == pytest.approx(-mean_T, abs=1e-12)


def test_joint_group_drags_the_weaker_mode_down_and_per_mode_does_not() -> None:
    """What the joint group costs the weaker mode: one right direct answer among thinking ones gets
    next to nothing.
    """
    rewards = paired([1, 1, 1, 1], [1, 0, 0, 0])
    joint = assign([rewards], config("bpo", "masked", g=4)).samples
    apart = assign([rewards], config("per_mode", "counterfactual", g=4)).samples
    # joint: mean 5/8, sample std sqrt((5 * 9/64 + 3 * 25/64) / 7) = .517549; its own mode: mean
    # 1/4, std 1/2
    assert joint[4].advantages_T[-1] == pytest.approx(0.375 / 0.517649, abs=1e-6)
    assert apart[4].advantages_T[-1] == pytest.approx(0.75 / 0.5001)
    assert sum(s.advantages_T[-1] for s in joint[4:]) < -2
    assert sum(s.advantages_T[-1] for s in apart[4:]) == pytest.approx(0, abs=1e-12)
