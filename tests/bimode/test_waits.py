"""Advice from who waited for whom."""

from __future__ import annotations

import pytest

from bimode.waits import Waits


@pytest.mark.parametrize(
    ("waits", "staleness", "says"),
    [
        (Waits(10, 8.0, 0.2, 0.1), 0, "learner waited 80% of the time, rollout workers 2%, weights took 1%: add rollout workers "
                                      "(bimode scale DIR --rollouts 4)"),
        (Waits(10, 0.5, 5.0, 0.1), 4, "1 of 2 rollout workers would do"),
        (Waits(10, 5.0, 4.0, 0.1), 0, "bpo.max_staleness = 1 lets them work at the same time"),
        (Waits(10, 5.0, 4.0, 0.1), 1, "weights took 1%"),
        (Waits(10, 1.0, 1.0, 4.0), 0, "publish less often"),
        (Waits(10, 2.0, 2.0, 0.5), 0, "weights took 5%"),
        (Waits(0, 0, 0, 0), 0, "weights took 0%"),
    ],
)  # fmt: skip
def test_advice(waits: Waits, staleness: int, says: str) -> None:
    line = waits.advice(2, staleness)
    assert line.endswith(says) or says in line
    assert "\n" not in line


def test_stretches_add_up() -> None:
    assert Waits(1, 0.5, 0.25, 0) + Waits(2, 0.5, 0.25, 1) == Waits(3, 1.0, 0.5, 1)
