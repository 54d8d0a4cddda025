"""Intervals against hand-computed numbers, and what must hold of any interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.evaluation.statistics import bootstrap_means, percentile_interval, wilson


def test_wilson_of_four_in_eight_is_what_the_formula_gives_by_hand() -> None:
    # z^2 = 3.8415; center (0.5 + 0.2401) / 1.4802 = 0.5; half 1.96 * sqrt(0.03125 + 0.015006) /
    # 1.4802 = 0.2848
    low, high = wilson(4, 8)
    assert low == pytest.approx(0.2152, abs=1e-4)
    assert high == pytest.approx(0.7848, abs=1e-4)


def test_wilson_of_another_confidence_by_hand() -> None:
    # z = 1.6449, n = 8: k = 8 gives 8 / (8 + z^2); k = 4 gives 1/2 -+ z sqrt(1/32 + z^2/256) / (1 +
    # z^2/8)
    assert wilson(8, 8, 0.9) == (pytest.approx(0.7473, abs=1e-4), 1.0)
    assert wilson(4, 8, 0.9) == (pytest.approx(0.2486, abs=1e-4), pytest.approx(0.7514, abs=1e-4))


def test_wilson_keeps_the_ends_inside() -> None:
    assert wilson(0, 8)[0] == 0.0
    assert wilson(8, 8)[1] == 1.0
    assert wilson(0, 8)[1] == pytest.approx(3.8415 / (8 + 3.8415), abs=1e-4)  # z^2 / (n + z^2)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="9 successes in 8 trials"):
        wilson(9, 8)


@given(trials=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_contains_the_share_mirrors_and_shrinks(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
    wider = wilson(10 * successes, 10 * trials)
    assert wider[1] - wider[0] < high - low


def test_bootstrap_means_have_the_mean_and_the_standard_error_of_the_items() -> None:
    values_KI = np.random.default_rng(1).normal(3.0, 2.0, (1, 400))
    means_KR = bootstrap_means(values_KI, rounds=4000, seed=0)
    assert means_KR.shape == (1, 4000)
    assert means_KR.mean() == pytest.approx(values_KI.mean(), abs=0.01)
    assert means_KR.std() == pytest.approx(values_KI.std() / 20, rel=0.05)


def test_bootstrap_is_paired_so_a_constant_difference_has_no_spread() -> None:
    items_I = np.random.default_rng(2).normal(size=50)
    means_KR = bootstrap_means(np.stack([items_I + 0.25, items_I]), rounds=200, seed=0)
    assert np.allclose(means_KR[0] - means_KR[1], 0.25)
    assert means_KR[0].std() > 0.05


def test_bootstrap_in_blocks_has_every_round_and_depends_on_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values_KI = np.arange(20.0)[None]
    monkeypatch.setattr("bimode.evaluation.statistics._BLOCK_COUNTS", 60)  # three rounds a block
    means_KR = bootstrap_means(values_KI, rounds=10, seed=5)
    assert means_KR.shape == (1, 10)
    assert len(np.unique(means_KR)) > 5
    assert np.array_equal(means_KR, bootstrap_means(values_KI, rounds=10, seed=5))
    assert not np.array_equal(means_KR, bootstrap_means(values_KI, rounds=10, seed=6))


def test_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        bootstrap_means(np.zeros((1, 0)), rounds=10, seed=0)


def test_percentile_interval_is_the_central_share_and_none_when_too_much_is_undefined() -> None:
    replicates_R = np.arange(1001.0)
    assert percentile_interval(replicates_R) == pytest.approx((25.0, 975.0))
    replicates_R[:40] = np.nan
    assert percentile_interval(replicates_R) is not None
    replicates_R[:60] = np.nan
    assert percentile_interval(replicates_R) is None
    assert percentile_interval(np.full(10, np.nan)) is None
