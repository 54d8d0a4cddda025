"""Credit whatever the algorithm: what is scored, which groups are refused, and the properties that
all share.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode import algorithms
from bimode.algorithms.base import group_advantages
from bimode.errors import IncompleteGroupError, StaleWeightsError
from bimode.modes import Mode
from bimode.rl.credit import assign, informative, modes_drawn, shuffle_rewards
from bimode.rl.metrics import summarize
from tests.rollouts import CLOSE, NAN, as_drawn, completion, config, group, loss_of, paired

NAMES = algorithms.NAMES
CASES = [(name, decision) for name in NAMES for decision in algorithms.load(name).decisions]
JOINT, BY_MODE = ("bpo", "dapo", "degrpo", "dr_grpo", "grpo"), ("counterroute", "hgpo", "per_mode")


def test_group_advantage_by_hand() -> None:
    # (1, 0, 0, 1): mean .5, sample variance 4 * .25 / 3, std .577350; (+-.5) / (.577350 + .0001)
    # (2, 0, 1, 1): mean 1, sample variance 2 / 3, std .816497
    advantages_PG = group_advantages(np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 1.0]]))
    a, b = 0.5 / (math.sqrt(1 / 3) + 1e-4), 1 / (math.sqrt(2 / 3) + 1e-4)
    np.testing.assert_allclose(advantages_PG, [[a, -a, -a, a], [b, -b, 0, 0]], rtol=1e-12)
    assert a == pytest.approx(0.865875, abs=1e-6)


@given(st.floats(-1e3, 1e3), st.integers(1, 16))
def test_equal_rewards_teach_exactly_nothing(reward: float, size: int) -> None:
    assert not group_advantages(np.full((1, size), reward)).any()


@pytest.mark.parametrize(("algorithm", "decision"), CASES)
def test_equal_rewards_give_responses_zero_advantage(algorithm: str, decision: str) -> None:
    """Exactly zero, for floats whose mean misses them by an ulp; only a choice may be taught by the
    price of thinking.
    """
    wanted = config(algorithm, decision, g=3, margin=0.0)
    samples = assign([as_drawn(wanted, [0.1] * 6, reference=0.1)], wanted).samples
    assert all(
        a == 0.0 for s in samples for a in s.advantages_T[1 + (s.mode is Mode.NON_THINKING) :]
    )


@given(
    st.permutations(range(8)),
    st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=8, max_size=8),
    st.sampled_from(NAMES),
)
def test_credit_does_not_depend_on_the_order_of_completions(
    order: list[int], rewards: list[float], name: str
) -> None:
    wanted = config(name, g=4)
    scored = as_drawn(wanted, rewards)
    moved = replace(
        scored,
        completions=tuple(scored.completions[i] for i in order),
        rewards_G=tuple(rewards[i] for i in order),
    )
    there, here = (assign([each], wanted) for each in (scored, moved))
    for sample, i in zip(here.samples, order, strict=True):
        assert sample.token_ids_T == there.samples[i].token_ids_T
        np.testing.assert_allclose(sample.advantages_T, there.samples[i].advantages_T, atol=1e-9)
        np.testing.assert_allclose(sample.loss_mask_T, there.samples[i].loss_mask_T)
    assert here.denominator == pytest.approx(there.denominator)


@given(
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.sampled_from(JOINT + BY_MODE),
    st.sampled_from(["std", "none"]),
)
def test_responses_are_compared_with_each_other(
    rewards: list[float], name: str, normalize: str
) -> None:
    """Advantages add up to zero: over the prompt, or in each mode of it."""
    wanted = config(name, g=4, normalize=normalize)
    samples = assign([as_drawn(wanted, rewards)], wanted).samples
    for part in [samples] if name in JOINT else [samples[:4], samples[4:]]:
        assert sum(s.advantages_T[-1] for s in part) == pytest.approx(0, abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8), st.floats(0, 1))
def test_adaptthink_compares_with_the_starting_policy(
    rewards: list[float], reference: float
) -> None:
    samples = assign(
        [as_drawn(config("adaptthink", g=4), rewards, reference)], config("adaptthink", g=4)
    ).samples
    assert sum(s.advantages_T[-1] for s in samples) == pytest.approx(
        sum(rewards) - 8 * reference + 4 * 0.05, abs=1e-9
    )


def test_normalize_none_is_the_centered_reward() -> None:
    """(1, 0, 0, 1) and (2, 0, 1, 1) less their means 1/2 and 1."""
    advantages_PG = group_advantages(np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 1.0]]), "none")
    np.testing.assert_array_equal(advantages_PG, [[0.5, -0.5, -0.5, 0.5], [1, -1, 0, 0]])


@pytest.mark.parametrize(
    ("aggregate", "weights", "denominator"),
    [
        ("sequence", [1 / 4, 1 / 2], 5.0),
        ("token", [1 / 3, 1 / 3], 5.0),
        ("constant", [1 / 16, 1 / 16], 4.0),
    ],
)
def test_a_decision_weighs_the_same_whatever_the_aggregate(
    aggregate: str, weights: list[float], denominator: float
) -> None:
    """Responses of 4, 4, 2 and 2 scored tokens and four decisions of 1/4: their sum is 4 + 1,
    responses are 4.
    """
    wanted = config("per_mode", "counterfactual", aggregate=aggregate, max_tokens=16)
    batch = assign([paired([1, 1], [1, 0])], wanted)
    assert [batch.samples[0].loss_mask_T[-1], batch.samples[2].loss_mask_T[-1]] == pytest.approx(
        weights
    )
    assert {s.loss_mask_T[0] for s in batch.samples} == {
        0.25
    } and batch.denominator == pytest.approx(denominator)


def test_a_group_without_any_credit_is_not_informative() -> None:
    """Equal rewards teach GRPO nothing, nor per-mode credit without a decision; a margin teaches
    the choice of a tie.
    """
    flat, mixed = as_drawn(config("grpo"), [1, 1, 1, 1]), as_drawn(config("grpo"), [1, 1, 1, 0])
    assert not informative(flat, config("grpo")) and informative(mixed, config("grpo"))
    apart = paired([1, 1], [0, 0])
    assert not informative(apart, config("per_mode", "masked")) and informative(
        apart, config("bpo")
    )
    tie = paired([1, 1], [1, 1])
    assert informative(tie, config("per_mode")) and not informative(
        tie, config("per_mode", margin=0.0)
    )
    with pytest.raises(IncompleteGroupError):
        informative(tie, config("grpo"))


@pytest.mark.parametrize(("algorithm", "decision"), CASES)
def test_which_tokens_get_a_gradient(algorithm: str, decision: str) -> None:
    """Masked: exactly none on the decision. Others: some. The forced ``</think>``: in `preferred`
    only, with it.
    """
    wanted = config(algorithm, decision, margin=0.2)
    samples = assign(
        [as_drawn(wanted, [1, 0, 1, 0]), as_drawn(wanted, [1, 1, 1, 0])], wanted
    ).samples
    grad_NV = loss_of(samples)[1]
    start = 0
    for sample in samples:
        rows = grad_NV[start : start + len(sample.token_ids_T)]
        start += len(rows)
        if decision == "masked":
            assert not rows[0].any()
        elif sample.advantages_T[0]:
            assert rows[0].any()
        if sample.mode is Mode.NON_THINKING:
            assert sample.token_ids_T[1] == CLOSE
            assert rows[1].any() == (decision == "preferred" and rows[0].any())
    decisions = [s.advantages_T[0] for s in samples]
    assert any(decisions) == (decision != "masked")


def test_samples_carry_what_the_records_hold() -> None:
    first, *_ = assign([paired([1, 0], [0, 0])], config()).samples
    assert (first.prompt_ids, first.images, first.mode, first.origin, first.versions_T) == (
        (1, 2),
        (b"png",),
        Mode.THINKING,
        "q",
        (3,) * 5,
    )
    assert first.behavior_logprobs_T[1:] == (-0.5,) * 4


@pytest.mark.parametrize("algorithm", NAMES)
def test_groups_that_are_not_as_drawn_are_refused(algorithm: str) -> None:
    wanted = config(algorithm)
    fine = as_drawn(wanted, [1, 0, 0, 1])
    completions = fine.completions
    assert len(assign([fine], wanted).samples) == 4
    other = completion(Mode.THINKING if completions[0].mode is Mode.AUTO else Mode.AUTO, 3)
    bad = {
        "a completion short": group(completions[1:], [0, 0, 1]),
        "one too many": group([*completions, completions[0]], [1, 0, 0, 1, 1]),
        "another mode besides": group([*completions, other], [1, 0, 0, 1, 1]),
        "one swapped": group([other, *completions[1:]], [1, 0, 0, 1]),
        "a reward short": group(completions, [1, 0, 0]),
        "a reward that is no number": group(completions, [1, 0, 0, NAN]),
    }
    for case, broken in bad.items():
        with pytest.raises(IncompleteGroupError):
            pytest.fail(f"{case} was accepted") if assign([broken], wanted) else None


def test_versions_further_apart_than_the_bound_are_refused() -> None:
    completions = [*paired([1, 0], [0]).completions, completion(Mode.NON_THINKING, 2, version=4)]
    with pytest.raises(StaleWeightsError, match=r"\[3, 4\]"):
        assign([group(completions, [1, 0, 0, 0])], config())
    assign([group(completions, [1, 0, 0, 0])], config(max_staleness=1))


def test_modes_drawn() -> None:
    both = ((Mode.THINKING, 8), (Mode.NON_THINKING, 8))
    assert modes_drawn(config("bpo", g=8)) == modes_drawn(config("per_mode", g=8)) == both
    assert modes_drawn(config("grpo", g=8)) == ((Mode.AUTO, 16),)


@given(st.sampled_from(NAMES), st.integers(1, 20), st.floats(0, 1))
def test_every_algorithm_spends_the_same_rollouts(name: str, g: int, share: float) -> None:
    """2 g a prompt, equally many in each forced mode: what is compared costs the same."""
    schedule = (
        {"self_routed": share, "self_routed_final": share}
        if algorithms.load(name).self_routes
        else {}
    )
    scored = dict(modes_drawn(config(name, g=g, **schedule)))
    assert sum(scored.values()) == 2 * g and all(scored.values())
    assert scored.get(Mode.THINKING, 0) == scored.get(Mode.NON_THINKING, 0)


def test_shuffled_rewards_are_the_same_rewards() -> None:
    groups = [paired([1] * 8, [0] * 8), paired([0.5] * 8, [0] * 8)]
    shuffled = shuffle_rewards(groups, seed=7)
    assert sorted(r for g in shuffled for r in g.rewards_G) == sorted(
        r for g in groups for r in g.rewards_G
    )
    assert shuffled != groups and shuffled == shuffle_rewards(groups, seed=7) != shuffle_rewards(
        groups, seed=8
    )
    assert [g.completions for g in shuffled] == [g.completions for g in groups]
    assert any(0.5 in g.rewards_G for g in shuffled[:1])  # across prompts, not only within


def test_summary() -> None:
    easy, hard = paired([1, 1], [1, 0]), paired([1, 0], [0, 0])
    hard = replace(hard, prompt=replace(hard.prompt, level="hard"))
    summary = summarize([easy, hard])
    line = json.loads(json.dumps(summary.to_json()))
    assert line["versions"] == [3] and line["groups"] == 2
    assert line["flat_groups"] == 0.5  # easy thinking and hard direct, of four
    assert line["modes"]["thinking"]["all"] == pytest.approx(
        {"n": 4, "reward": 0.75, "accuracy": 0.75, "tokens": 5, "think_rate": 1.0, "finished": 1.0}
    )
    assert line["modes"]["non_thinking"]["easy"]["accuracy"] == 0.5
    assert line["modes"]["non_thinking"]["hard"] == pytest.approx(
        {"n": 2, "reward": 0.0, "accuracy": 0.0, "tokens": 4, "think_rate": 0.0, "finished": 1.0}
    )
    assert set(line["modes"]) == {"thinking", "non_thinking"}
