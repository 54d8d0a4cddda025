"""The learning rate of a step, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.engines import learning_rate
from bimode.config.common import OptimConfig


def rates(steps: int, **optim: object) -> list[float]:
    config = OptimConfig.model_validate({"lr": 1.0, **optim})
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_warmup_then_cosine_to_the_final_share() -> None:
    assert rates(7, warmup_steps=2, final_lr_share=0.1) == pytest.approx(
        [0.5, 1.0, 1.0, 0.1 + 0.9 * 0.8535533905932737, 0.55, 0.1 + 0.9 * 0.1464466094067262, 0.1]
    )


def test_constant_stays_at_the_peak() -> None:
    assert rates(4, schedule="constant", warmup_steps=1) == [1.0, 1.0, 1.0, 1.0]


def test_past_the_end_the_last_rate_stays() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=0, final_lr_share=0.25)
    assert learning_rate(500, 10, config) == pytest.approx(0.5)


@given(steps=st.integers(1, 60), warmup=st.integers(0, 80), share=st.floats(0, 1))
def test_rises_in_the_warmup_and_never_after(steps: int, warmup: int, share: float) -> None:
    found = rates(steps, warmup_steps=warmup, final_lr_share=share)
    before, after = found[:warmup], found[warmup:]
    assert before == sorted(before) and after == sorted(after, reverse=True)
    assert found[0] > 0 and max(found) <= 1.0
    assert min(after, default=1.0) >= share - 1e-12
