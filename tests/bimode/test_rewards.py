"""Rewards: right and finished, and DAPO's price of coming near the limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bimode.modes import Mode
from bimode.rl.credit import correctness, overlong, shaped
from bimode.rl.metrics import summarize
from tests.rollouts import completion, config, group, paired


def test_a_right_answer_that_was_cut_off_earns_nothing() -> None:
    right, prompt = completion(Mode.THINKING, 3), paired([1], [1]).prompt
    assert correctness(right, prompt) == 1.0
    assert correctness(replace(right, finished=False), prompt) == 0.0
    assert correctness(right, replace(prompt, answer="8")) == 0.0


@pytest.mark.parametrize(
    ("tokens", "term"), [(1, 0), (16, 0), (17, -0.25), (18, -0.5), (20, -1), (25, -1)]
)
def test_overlong_by_hand(tokens: int, term: float) -> None:
    """20 tokens at most, a fifth of them: from 16 on a quarter a token."""
    assert overlong(tokens, 20, 0.2) == pytest.approx(term)
    assert overlong(tokens, 20, 0.0) == 0.0


def test_dapos_own_numbers() -> None:
    """20480 tokens with a buffer of 4096: none taken at 16384, half at 18432."""
    assert [overlong(n, 20480, 0.2) for n in (16384, 18432, 20480)] == pytest.approx([0, -0.5, -1])


def test_shaped_rewards_leave_the_logged_ones_alone() -> None:
    """5 and 9 tokens of 10, buffer .5: right less nothing, right less 4/5; accuracy still means
    accuracy.
    """
    scored = group([completion(Mode.AUTO, 5), completion(Mode.AUTO, 9)], [1, 1])
    wanted = config("dapo", g=1, max_tokens=10, overlong_buffer=0.5)
    assert shaped(scored, wanted).rewards_G == pytest.approx((1.0, 0.2))
    assert (
        scored.rewards_G == (1, 1) and summarize([scored]).means[(Mode.AUTO, "all")].accuracy == 1.0
    )
    assert shaped(scored, config("grpo", g=1, max_tokens=10)).rewards_G == (1, 1)
