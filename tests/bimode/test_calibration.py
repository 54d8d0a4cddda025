"""A judge beside trivial baselines, on numbers by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.evaluation.statistics import wilson
from data_curation.tagging.calibration import Judged, calibrate, choose_threshold, describe

T, N = "thinking", "non_thinking"


def rows(*counts: tuple[str, str, int], length: int = 10) -> list[Judged]:
    """`counts` of (tag, verdict, how many)."""
    pairs = [(tag, verdict) for tag, verdict, count in counts for _ in range(count)]
    return [Judged(f"{at:03d}", tag, verdict, length) for at, (tag, verdict) in enumerate(pairs)]


def test_kappa_and_accuracy_of_the_textbook_table() -> None:
    """20, 5, 10, 15 of 50: observed 0.7, by chance (25 * 30 + 25 * 20) / 50^2 = 0.5, kappa 0.4."""
    found = calibrate(rows((T, T, 20), (T, N, 5), (N, T, 10), (N, N, 15)))
    assert found.kappa == pytest.approx(0.4)
    assert found.counts == ((20, 5), (10, 15))
    assert (found.judge.right, found.judge.n, found.judge.accuracy) == (35, 50, 0.7)
    assert (found.judge.low, found.judge.high) == wilson(35, 50, 0.95)
    assert found.majority.right == 25
    lines = describe(found).splitlines()
    assert lines[0].endswith("50 questions, Cohen's kappa 0.40")
    assert [line.split() for line in lines[1:3]] == [
        ["curate:", "judge", "0.70", "[0.56,", "0.81]"],
        ["curate:", "majority", "0.50", "[0.37,", "0.63]"],
    ]


def test_a_judge_that_always_says_the_same_has_kappa_0_whatever_its_accuracy() -> None:
    found = calibrate(rows((T, T, 9), (N, T, 1)))
    assert found.judge.accuracy == 0.9 == found.majority.accuracy and found.kappa == pytest.approx(
        0.0
    )
    assert calibrate(rows((T, T, 5))).kappa is None, "chance alone always agrees"
    assert calibrate(rows((T, N, 3), (N, T, 3))).kappa == pytest.approx(-1.0)


def test_what_is_neither_word_is_left_out_and_counted() -> None:
    found = calibrate(rows((T, T, 2), (T, "either", 1), ("either", N, 2), (N, "", 1)))
    assert found.judge.n == 2 and found.left_out == 4
    empty = calibrate([])
    assert (
        empty.judge.n == 0
        and empty.kappa is None
        and (empty.judge.low, empty.judge.high) == (0.0, 1.0)
    )


def test_the_threshold_is_chosen_on_one_half_and_tested_on_the_other() -> None:
    """Ids alternate between the halves. Half a learns `longer than 3 thinks`, half b `longer than 7
    thinks`.
    """
    a = [Judged("00", N, N, 3), Judged("02", T, N, 5), Judged("04", T, N, 9)]
    b = [Judged("01", N, N, 4), Judged("03", N, N, 7), Judged("05", T, N, 8)]
    # tested on b: 4 -> thinks (wrong), 7 -> thinks (wrong), 8 right; on a: 3 right, 5 -> does not
    # (wrong), 9 right
    assert calibrate(a + b).length.right == 3
    shuffled = a + b
    random.Random(1).shuffle(shuffled)
    assert calibrate(shuffled) == calibrate(a + b), "order does not matter"


def test_length_that_says_nothing_scores_no_better_than_chance() -> None:
    rng = random.Random(0)
    made = [Judged(f"{k:04d}", rng.choice((T, N)), T, rng.randrange(1000)) for k in range(2000)]
    assert 0.45 < calibrate(made).length.accuracy < 0.55


def test_thresholds_by_hand() -> None:
    def best(lengths: list[int], thinks: list[bool]) -> tuple[float, bool]:
        return choose_threshold(np.array(lengths, dtype=np.int64), np.array(thinks))

    assert best([1, 2, 3, 4], [False, False, True, True]) == (2.0, True)
    assert best([1, 2, 3, 4], [True, True, False, False]) == (
        2.0,
        False,
    ), "shorter questions may be the harder ones"
    assert best([5, 5, 5], [True, True, False]) == (
        -np.inf,
        True,
    ), "equal lengths cannot be told apart"
    assert best([], []) == (-np.inf, True)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12))
def test_no_other_threshold_is_better(pairs: list[tuple[int, bool]]) -> None:
    lengths, thinks = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])

    def hits(threshold: float, long_thinks: bool) -> int:
        return int((((lengths > threshold) == long_thinks) == thinks).sum())

    found = hits(*choose_threshold(lengths, thinks))
    assert found == max(hits(t, way) for t in (-np.inf, *range(10)) for way in (True, False))
