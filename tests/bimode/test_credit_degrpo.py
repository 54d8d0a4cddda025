"""DeGRPO: its rewards from 0 and 1, its mean-only advantage, and the small weight of the choice."""

from __future__ import annotations

import pytest

from bimode.modes import Mode
from bimode.records import RolloutGroup
from bimode.rl.credit import assign
from tests.rollouts import completion, config, group

THOUGHT = "\nso\n</think>\n\n7"


def mixed(direct: tuple[float, float], thinking: tuple[float, float]) -> RolloutGroup:
    """Auto mode, g = 2: two direct rollouts of 3 tokens and two thinking ones of 5."""
    completions = [completion(Mode.AUTO, 3)] * 2 + [completion(Mode.AUTO, 5, text=THOUGHT)] * 2
    return group(completions, [*direct, *thinking])


def test_degrpo_by_hand() -> None:
    """Right and wrong, direct and thinking: r' = 1, -1, .5, -1, mean -1/8."""
    samples = assign([mixed((1, 0), (1, 0))], config("degrpo")).samples
    assert [s.advantages_T for s in samples] == [
        (1.125,) * 3,
        (-0.875,) * 3,
        (0.625,) * 5,
        (-0.875,) * 5,
    ]
    assert samples[0].loss_mask_T == (0.001, 0.5, 0.5) and samples[2].loss_mask_T == (
        0.001,
        *[0.25] * 4,
    )
    assert samples[0].behavior_logprobs_T == (-0.5,) * 3


def test_a_right_answer_is_worth_more_without_a_thought() -> None:
    """All right: r' = 1, 1, .5, .5, so the choice alone is taught; all wrong teaches nothing."""
    right = assign([mixed((1, 1), (1, 1))], config("degrpo")).samples
    assert [s.advantages_T[0] for s in right] == pytest.approx([0.25, 0.25, -0.25, -0.25])
    wrong = assign([mixed((0, 0), (0, 0))], config("degrpo")).samples
    assert not any(a for s in wrong for a in s.advantages_T)
