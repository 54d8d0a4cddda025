"""Routing numbers on a table small enough to do by hand, and their identities on any table."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.evaluation import routers
from bimode.evaluation.routing import ItemResult, Means, Outcome, frontier, h_acc, nauc, qnc, table
from bimode.modes import Mode

COST_RANGE = (0.0, 40.0)


def item(
    name: str,
    *,
    think: tuple[bool, int],
    direct: tuple[bool, int],
    auto_thinks: bool,
    question: str = "what is it ?",
) -> ItemResult:
    """Auto answers exactly as the forced mode it chooses."""
    thinking, direct_ = Outcome(*think, thought=True), Outcome(*direct, thought=False)
    greedy = {
        Mode.THINKING: thinking,
        Mode.NON_THINKING: direct_,
        Mode.AUTO: thinking if auto_thinks else direct_,
    }
    return ItemResult(name, "digits", "easy", question, greedy)


# thinking is right on 3 of 4 at 20 tokens, direct on 1 of 4 at 5; auto thinks on b and d and is
# right on 2 of 4
FOUR = [
    item("a", think=(True, 20), direct=(True, 5), auto_thinks=False),
    item("b", think=(True, 20), direct=(False, 5), auto_thinks=True),
    item("c", think=(True, 20), direct=(False, 5), auto_thinks=False),
    item("d", think=(False, 20), direct=(False, 5), auto_thinks=True),
]


def means_of(items: list[ItemResult]) -> Means:
    return Means(*table(items).columns().mean(axis=1))


def test_recoveries_of_four_items_by_hand() -> None:
    # gap: (2/4 - 1/4) / (3/4 - 1/4) = 0.5 oracle: direct on a (both right) and d (neither),
    # thinking on b and c: (5 + 20 + 20 + 5) / 4 = 12.5 saving: (20 - 12.5) / (20 - 12.5) = 1: auto
    # spends as much as the oracle, on the wrong items
    means = means_of(FOUR)
    assert float(means.gap_recovery) == pytest.approx(0.5)
    assert float(means.saving_recovery) == pytest.approx(1.0)
    assert table(FOUR).oracle_thinks_I.tolist() == [0, 1, 1, 0]


def test_oracle_takes_the_cheaper_mode_also_where_that_is_thinking() -> None:
    rambling = [item("a", think=(True, 8), direct=(True, 30), auto_thinks=True)]
    assert table(rambling).oracle_thinks_I.tolist() == [1]
    alike = [item("a", think=(False, 8), direct=(False, 8), auto_thinks=True)]
    assert table(alike).oracle_thinks_I.tolist() == [0]


@pytest.mark.parametrize(("thinking", "gap"), [(0.64, None), (0.65, 1.0), (0.50, None)])
def test_a_gap_under_a_twentieth_of_the_scale_is_undefined(
    thinking: float, gap: float | None
) -> None:
    means = Means(thinking, thinking, 0.60, 10.0, 20.0, 5.0, 10.0)
    assert (
        float(means.gap_recovery) == pytest.approx(gap)
        if gap
        else math.isnan(float(means.gap_recovery))
    )


@pytest.mark.parametrize(("oracle", "defined"), [(19.5, False), (19.0, True), (25.0, False)])
def test_a_saving_under_a_twentieth_of_thinking_is_undefined(oracle: float, defined: bool) -> None:
    means = Means(0.5, 0.9, 0.1, 19.0, 20.0, 5.0, oracle)
    assert math.isfinite(float(means.saving_recovery)) is defined


def test_recoveries_take_bootstrap_rounds_and_are_undefined_round_by_round() -> None:
    means = Means(
        np.array([0.5, 0.5]), np.array([0.9, 0.6]), np.array([0.1, 0.59]), 10.0, 20.0, 5.0, 10.0
    )
    assert np.allclose(means.gap_recovery, [0.5, np.nan], equal_nan=True)


def sampled(
    name: str, think: list[bool], direct: list[bool], *, auto_thinks: bool, think_tokens: int = 20
) -> ItemResult:
    found = item(name, think=(True, 20), direct=(True, 5), auto_thinks=auto_thinks)
    samples = {
        Mode.THINKING: tuple(Outcome(c, think_tokens, True) for c in think),
        Mode.NON_THINKING: tuple(Outcome(c, 5, False) for c in direct),
    }
    return dataclasses.replace(found, sampled=samples)


def test_h_acc_counts_the_choice_of_the_better_mode_and_gives_ties_to_the_shorter() -> None:
    items = [
        sampled(
            "better", [True] * 8, [True] * 7 + [False], auto_thinks=True
        ),  # right: thinking 1.0 > 0.875
        sampled("worse", [False] * 8, [True] * 8, auto_thinks=True),  # wrong: direct is better
        sampled("tie", [True] * 8, [True] * 8, auto_thinks=False),  # right: direct is shorter
        sampled("tie, thought", [True] * 8, [True] * 8, auto_thinks=True),  # wrong
        sampled(
            "tie, short thought", [True] * 8, [True] * 8, auto_thinks=True, think_tokens=3
        ),  # right
    ]
    assert h_acc(items) == pytest.approx(3 / 5)
    assert h_acc([*items, FOUR[0]]) == pytest.approx(3 / 5), (
        "an item without samples does not count"
    )
    assert h_acc(FOUR) is None


def test_frontier_drops_what_a_cheaper_point_matches() -> None:
    assert frontier([(20, 0.7), (5, 0.5), (10, 0.4), (10, 0.7), (5, 0.3)]) == [(5, 0.5), (10, 0.7)]


def test_nauc_by_hand() -> None:
    # 0 up to 5 tokens; 5 to 20 from 0.4 to 0.8: 15 * 0.6 = 9; 20 to 40 at 0.8: 16; 25 / 40
    assert nauc([(5, 0.4), (20, 0.8)], COST_RANGE) == pytest.approx(25 / 40)
    # a point above the chord, (10, 0.7): 5 * 0.55 + 10 * 0.75 + 16 = 26.25
    assert nauc([(5, 0.4), (10, 0.7), (20, 0.8)], COST_RANGE) == pytest.approx(26.25 / 40)
    assert nauc([(50, 1.0)], COST_RANGE) == 0.0, "not affordable"
    assert nauc([(2, 0.5)], (4.0, 8.0)) == pytest.approx(0.5), "cheaper than the whole range"


def test_qnc_is_the_share_of_the_best_modes_cost_at_its_accuracy() -> None:
    singles = [(5.0, 0.4), (20.0, 0.8)]
    assert qnc([(12.0, 0.8)], singles) == pytest.approx(0.6)
    assert qnc([(12.0, 0.79)], singles) == pytest.approx(1.0), (
        "short of it: the mode itself is on offer"
    )
    assert qnc([(12.0, 0.9)], [(5.0, 0.8), (20.0, 0.8)]) == pytest.approx(1.0), (
        "of equal modes the cheaper is the best"
    )


outcomes = st.tuples(st.booleans(), st.integers(3, 60))
tables = st.lists(st.tuples(outcomes, outcomes, st.booleans()), min_size=2, max_size=30).map(
    lambda rows: [
        item(f"i{k}", think=think, direct=direct, auto_thinks=chosen, question=f"q {k % 3}")
        for k, (think, direct, chosen) in enumerate(rows)
    ]
)


@given(tables)
def test_always_and_never_thinking_recover_all_and_nothing_of_the_gap(
    items: list[ItemResult],
) -> None:
    columns = table(items)
    always = routers.measure(columns, np.ones(len(items)), COST_RANGE)
    never = routers.measure(columns, np.zeros(len(items)), COST_RANGE)
    if math.isfinite(always.gap_recovery):
        assert always.gap_recovery == pytest.approx(1.0)
        assert never.gap_recovery == pytest.approx(0.0)
    if math.isfinite(always.saving_recovery):
        assert always.saving_recovery == pytest.approx(0.0, abs=1e-9)


@given(tables)
def test_no_router_beats_the_oracle_in_accuracy_and_it_recovers_its_own_saving(
    items: list[ItemResult],
) -> None:
    columns = table(items)
    oracle = routers.measure(columns, columns.oracle_thinks_I, COST_RANGE)
    policies = [
        routers.random_same_rate(columns),
        routers.question_only(columns, [i.question for i in items], [i.id for i in items]),
        columns.thought_auto_I,
    ]
    others = [routers.measure(columns, thinks_I, COST_RANGE) for thinks_I in policies]
    assert all(other.accuracy <= oracle.accuracy + 1e-9 for other in others)
    if math.isfinite(oracle.saving_recovery):
        assert oracle.saving_recovery == pytest.approx(1.0)


@given(tables)
def test_baselines_think_as_often_as_auto(items: list[ItemResult]) -> None:
    columns = table(items)
    rate = columns.thought_auto_I.mean()
    thinks_I = routers.question_only(columns, [i.question for i in items], [i.id for i in items])
    assert routers.random_same_rate(columns).mean() == pytest.approx(rate)
    assert thinks_I.mean() == pytest.approx(rate)
    assert ((thinks_I >= 0) & (thinks_I <= 1)).all()


def test_a_coin_recovers_its_own_rate_of_the_gap() -> None:
    columns = table(FOUR)
    coin = routers.measure(columns, routers.random_same_rate(columns), COST_RANGE)
    assert coin.gap_recovery == pytest.approx(columns.thought_auto_I.mean())
    assert coin.tokens_mean == pytest.approx(12.5)


def worded(k: int, *, telling: bool) -> ItemResult:
    hard = k % 2 == 0
    question = "multiply all of them" if hard and telling else "look at it"
    return item(
        f"i{k}", think=(True, 20), direct=(not hard, 5), auto_thinks=k % 4 < 2, question=question
    )


def test_question_only_finds_difficulty_that_the_words_give_away_and_nothing_else() -> None:
    for telling, expected in ((True, 1.0), (False, 0.75)):
        items = [worded(k, telling=telling) for k in range(80)]
        columns = table(items)
        thinks_I = routers.question_only(
            columns, [i.question for i in items], [i.id for i in items]
        )
        accuracy = routers.measure(columns, thinks_I, COST_RANGE).accuracy
        assert accuracy == pytest.approx(expected, abs=0.02)
