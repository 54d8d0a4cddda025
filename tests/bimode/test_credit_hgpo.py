"""HGPO: the better mode by means with a margin, the best answers inside a mode, and where each of
them is heard.
"""

from __future__ import annotations

import math

import pytest

from bimode.rl.credit import assign
from tests.rollouts import config, paired

INTER = 0.5 / (math.sqrt(1 / 3) + 1e-4)  # two of four: (1, 1, 0, 0), sample std sqrt(1/3)
INTRA = 0.5 / (math.sqrt(1 / 2) + 1e-4)  # one of two: (1, 0), sample std sqrt(1/2)


def test_hgpo_by_hand() -> None:
    """Thinking (1, 1), direct (1, 0): 1 > .5 + .2, so thinking is better; all tokens of a response
    weigh 1/|o|.
    """
    samples = assign([paired([1, 1], [1, 0])], config("hgpo")).samples
    assert samples[0].advantages_T == pytest.approx((INTER, 0, 0, 0, 0)), (
        "both are the best of their mode"
    )
    assert samples[2].advantages_T == pytest.approx((INTRA - INTER, 0, INTRA, INTRA))
    assert samples[3].advantages_T == pytest.approx((-INTRA - INTER, 0, -INTRA, -INTRA))
    assert samples[0].loss_mask_T == pytest.approx((0.2,) * 5)
    assert samples[2].loss_mask_T == pytest.approx((1 / 3, 0, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("thinking", "direct", "margin", "sign"),
    [
        ([1, 1], [1, 0], 0.6, -1),
        ([1, 1], [1, 1], 0.0, -1),
        ([0, 0], [0, 0], 0.2, -1),
        ([1, 0], [0, 0], 0.2, 1),
    ],
    ids=["within the margin", "a tie", "all wrong", "better by more"],
)
def test_the_better_mode(
    thinking: list[float], direct: list[float], margin: float, sign: int
) -> None:
    """Thinking must be better by more than the margin; the choice is pushed even where no answer is
    right.
    """
    samples = assign([paired(thinking, direct)], config("hgpo", margin=margin)).samples
    decisions = [s.advantages_T[0] for s in samples]
    assert sum(decisions[:2]) == pytest.approx(2 * sign * INTER) and sum(
        decisions
    ) == pytest.approx(0, abs=1e-12)


def test_a_mode_that_is_all_wrong_teaches_its_responses_nothing() -> None:
    samples = assign([paired([1, 0], [0, 0])], config("hgpo")).samples
    assert [s.advantages_T[-1] for s in samples] == pytest.approx([INTRA, -INTRA, 0, 0])
