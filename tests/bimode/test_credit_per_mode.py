"""Per-mode credit and CounterRoute: who hears of the difference of the modes, and how much."""

from __future__ import annotations

import math

import pytest

from bimode.algorithms.per_mode import DECISION_WEIGHT
from bimode.modes import Mode
from bimode.rl.credit import assign, modes_drawn
from tests.rollouts import CLOSE, config, paired, push_on_think


def test_per_mode_by_hand() -> None:
    """Thinking (1, 1), direct (1, 0), margin .1: delta = 1 - .5 - .1 = .4, decision +-4 tanh(.4) =
    +-1.519796.
    """
    samples = assign(
        [paired([1, 1], [1, 0])], config("per_mode", "counterfactual", margin=0.1)
    ).samples
    a = 0.5 / (math.sqrt(0.5) + 1e-4)  # (1, 0): mean .5, sample std sqrt(.5)
    assert samples[0].advantages_T == pytest.approx((1.519796, 0, 0, 0, 0), abs=1e-6)
    assert samples[2].advantages_T == pytest.approx((-1.519796, 0, a, a), abs=1e-6)
    assert samples[3].advantages_T == pytest.approx((-1.519796, 0, -a, -a), abs=1e-6)
    assert samples[0].loss_mask_T == pytest.approx((DECISION_WEIGHT, *[0.25] * 4))
    assert samples[2].loss_mask_T == pytest.approx((DECISION_WEIGHT, 0.0, 0.5, 0.5))


def test_preferred_scores_the_decision_of_the_better_mode_alone() -> None:
    """Thinking (1, 1), direct (1, 0), margin .1: push 4 tanh(.4) = 1.519796 for thinking; with
    margin .6, -.398672.
    """
    samples = assign([paired([1, 1], [1, 0])], config("per_mode", "preferred", margin=0.1)).samples
    assert [s.advantages_T[0] for s in samples] == pytest.approx(
        [1.519796, 1.519796, 0, 0], abs=1e-6
    )
    assert [s.loss_mask_T[0] for s in samples] == [2 * DECISION_WEIGHT, 2 * DECISION_WEIGHT, 0, 0]
    samples = assign([paired([1, 1], [1, 0])], config("per_mode", "preferred", margin=0.6)).samples
    assert [s.advantages_T[0] for s in samples] == pytest.approx(
        [0, 0, 0.398672, 0.398672], abs=1e-6
    )
    assert samples[2].token_ids_T[1] == CLOSE, "the trigger's </think> belongs to the decision"
    assert samples[2].advantages_T[1] == samples[2].advantages_T[0]
    assert samples[2].loss_mask_T == (2 * DECISION_WEIGHT, 2 * DECISION_WEIGHT, 0.5, 0.5)


def test_margin_sends_ties_to_the_direct_mode() -> None:
    for rewards in (paired([1, 1], [1, 1]), paired([0, 0], [0, 0])):
        samples = assign([rewards], config("per_mode", "counterfactual", margin=0.15)).samples
        assert samples[0].advantages_T[0] == pytest.approx(-4 * math.tanh(0.15))
        assert samples[2].advantages_T[0] == pytest.approx(4 * math.tanh(0.15))
    first, *_ = assign(
        [paired([1, 1], [1, 1])], config("per_mode", "counterfactual", margin=0.0)
    ).samples
    assert first.advantages_T[0] == 0.0


def test_decision_credit_does_not_depend_on_length() -> None:
    short, long = (
        assign([paired([1, 0], [0, 0], length=n)], config("per_mode", "counterfactual")).samples[0]
        for n in (3, 300)
    )
    assert (
        short.loss_mask_T[0] * short.advantages_T[0] == long.loss_mask_T[0] * long.advantages_T[0]
    )


@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_push_on_the_decision_does_not_fade(p: float) -> None:
    """d loss / d log-odds = -s tanh(delta) / 2 a unit of decision weight, wherever the policy
    stands.
    """
    samples = assign(
        [paired([1, 1], [0, 0])], config("per_mode", "counterfactual", margin=0.2)
    ).samples
    assert push_on_think(p, samples) == pytest.approx(-4 * math.tanh(0.8) / 2)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_preferred_fades_where_the_choice_is_made(p: float) -> None:
    """d loss / d log-odds = -s tanh(delta) (1 - p) a unit of decision weight: cross-entropy to the
    better mode.
    """
    samples = assign([paired([1, 1], [0, 0])], config("per_mode", "preferred", margin=0.2)).samples
    assert push_on_think(p, samples) == pytest.approx(-4 * math.tanh(0.8) * (1 - p))


def test_kl_ends_the_push_before_a_mode_dies() -> None:
    """A tie, margin .15, kl .01, pi_ref = 1/2: at rest where pi_ref / p = 1 + 4 tanh(.15) / .01 =
    60.6, p = .0083.
    """
    samples = assign(
        [paired([1, 1], [1, 1])], config("per_mode", "counterfactual", margin=0.15)
    ).samples
    rest = 0.5 / (1 + 4 * math.tanh(0.15) / 0.01)
    assert push_on_think(1.05 * rest, samples, reference=0.5) > 0  # still pushed down
    assert push_on_think(0.95 * rest, samples, reference=0.5) < 0  # and back up


def test_self_routed_rollouts_get_grpo_credit_beside_the_forced_ones() -> None:
    """Thinking (1), direct (0), auto (1, 0), margin .05: decision +-4 tanh(.95) = +-2.959..., auto
    +-.5 / (sqrt(.5) + 1e-4).
    """
    wanted = config("counterroute", self_routed=0.5, self_routed_final=0.5)
    samples = assign([paired([1], [0], auto=[1, 0])], wanted).samples
    a, push = 0.5 / (math.sqrt(0.5) + 1e-4), 4 * math.tanh(0.95)
    assert samples[0].advantages_T == pytest.approx((push, 0, 0, 0, 0)), (
        "alone in its mode: nothing to compare with"
    )
    assert samples[1].advantages_T == pytest.approx((-push, 0, 0, 0))
    assert [s.advantages_T for s in samples[2:]] == [pytest.approx((a, a)), pytest.approx((-a, -a))]
    assert samples[2].loss_mask_T == (0.5, 0.5) and samples[2].behavior_logprobs_T == (-0.5, -0.5)
    assert samples[0].loss_mask_T == (DECISION_WEIGHT, *[0.25] * 4)


def test_preferred_leaves_self_routed_rollouts_alone() -> None:
    """Auto rollouts have no forced trigger, so nobody may push their first tokens."""
    samples = assign(
        [paired([1], [0], auto=[1, 1])], config("per_mode", "preferred", self_routed=0.5)
    ).samples
    assert samples[0].loss_mask_T[0] == 2 * DECISION_WEIGHT
    assert [s.advantages_T for s in samples[2:]] == [(0.0, 0.0)] * 2 and samples[2].loss_mask_T == (
        0.5,
        0.5,
    )


def test_counterroute_goes_from_forced_to_free() -> None:
    """g = 8, eleven steps: share 0, .35, .7 -> forced a mode 8, round(5.2), round(2.4); margin .05,
    .025, 0.
    """
    whole = config("counterroute", g=8, steps=11)
    scored = {step: dict(modes_drawn(whole.at(step))) for step in (0, 5, 10)}
    assert scored[0] == {Mode.THINKING: 8, Mode.NON_THINKING: 8}
    assert scored[5] == {Mode.THINKING: 5, Mode.NON_THINKING: 5, Mode.AUTO: 6}
    assert scored[10] == {Mode.THINKING: 2, Mode.NON_THINKING: 2, Mode.AUTO: 12}
    assert [whole.at(step).margin for step in (0, 5, 10)] == pytest.approx([0.05, 0.025, 0.0])
    tie = paired([1] * 5, [1] * 5, auto=[1] * 6)
    assert assign([tie], whole.at(5)).samples[0].advantages_T[0] == pytest.approx(
        -4 * math.tanh(0.025)
    )


@pytest.mark.parametrize(("g", "forced"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 5)])
def test_each_mode_keeps_its_floor(g: int, forced: int) -> None:
    """15 % of 2 g rounded, and one at least: below that the modes are not compared."""
    scored = dict(modes_drawn(config("per_mode", g=g, self_routed=1.0)))
    assert scored[Mode.THINKING] == scored[Mode.NON_THINKING] == forced
    assert sum(scored.values()) == 2 * g
