"""GRPO, Dr. GRPO and DAPO: the weight of a token, the denominator, the std and the clip, by
hand.
"""

from __future__ import annotations

import math

import pytest
import torch

from bimode.modes import Mode
from bimode.records import RolloutGroup
from bimode.rl.credit import CreditedBatch, assign
from bimode.rl.loss import LossInputs, policy_loss
from tests.rollouts import completion, config, group


def test_grpo_scores_every_generated_token() -> None:
    completions = [completion(Mode.AUTO, n) for n in (2, 4, 5, 5)]
    samples = assign([group(completions, [1, 0, 0, 0])], config("grpo", "trained")).samples
    # (1, 0, 0, 0): mean 1/4, sample std sqrt((9/16 + 3/16) / 3) = 1/2
    assert samples[0].advantages_T == pytest.approx([0.75 / 0.5001] * 2)
    assert samples[1].loss_mask_T == pytest.approx([0.25] * 4)
    masked = assign([group(completions, [1, 0, 0, 0])], config("grpo", "masked")).samples
    assert masked[1].loss_mask_T == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])


def two_responses() -> list[RolloutGroup]:
    """One group: 2 tokens with reward 1, 4 tokens with reward 0; std sqrt(.5)."""
    return [group([completion(Mode.AUTO, 2), completion(Mode.AUTO, 4)], [1, 0])]


def surrogate(batch: CreditedBatch, clip_low: float, clip_high: float, ratio: float = 1.0) -> float:
    """The policy loss where every token's probability is `ratio` times what it was."""

    def tokens(name: str) -> torch.Tensor:
        return torch.tensor(
            [x for s in batch.samples for x in getattr(s, name)], dtype=torch.float64
        )

    old_N = tokens("behavior_logprobs_T")
    inputs = LossInputs(
        old_N + math.log(ratio),
        torch.zeros_like(old_N),
        old_N,
        None,
        tokens("advantages_T"),
        tokens("loss_mask_T"),
    )
    return policy_loss(clip_low, clip_high, 0.0)(inputs, batch.denominator).loss.item()


def test_grpo_weighs_responses() -> None:
    """1/2 (1/2 2 A + 1/4 4 (-A)) = 0."""
    batch = assign(two_responses(), config("grpo", g=1))
    assert [s.loss_mask_T[0] for s in batch.samples] == [
        1 / 2,
        1 / 4,
    ] and batch.denominator == pytest.approx(2)
    assert surrogate(batch, 0.2, 0.2) == pytest.approx(0, abs=1e-12)


def test_dapo_weighs_tokens() -> None:
    """(2 A - 4 A) / 6 = -A / 3, whatever the scale of the weights."""
    batch = assign(two_responses(), config("dapo", g=1))
    a = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert [w / batch.denominator for s in batch.samples for w in s.loss_mask_T] == pytest.approx(
        [1 / 6] * 6
    )
    assert surrogate(batch, 0.2, 0.28) == pytest.approx(a / 3)


def test_dr_grpo_divides_by_constants_alone() -> None:
    """A = +-1/2, no std; the objective with max_tokens 8 is (2 / 8 - 4 / 8) / 2 responses times 1/2
    = -1/16.
    """
    batch = assign(two_responses(), config("dr_grpo", g=1, max_tokens=8))
    assert [s.advantages_T[0] for s in batch.samples] == [0.5, -0.5]
    assert {w for s in batch.samples for w in s.loss_mask_T} == {1 / 8} and batch.denominator == 2
    assert surrogate(batch, 0.2, 0.2) == pytest.approx(1 / 16)
    longer = assign(two_responses() * 2, config("dr_grpo", g=1, max_tokens=16))
    assert longer.denominator == 4 and surrogate(longer, 0.2, 0.2) == pytest.approx(1 / 32)


@pytest.mark.parametrize(("clip_high", "gain"), [(0.2, 1.2), (0.28, 1.25)])
def test_clip_higher_lets_likely_tokens_rise_further(clip_high: float, gain: float) -> None:
    """Ratio 1.25: the right response counts min(1.25, 1 + clip_high), the wrong one 1.25 in full;
    (-2 gain + 4 1.25) A / 6.
    """
    wanted = config("dapo", g=1, clip_high=clip_high)
    batch = assign(two_responses(), wanted)
    a = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert surrogate(batch, wanted.clip_low, wanted.clip_high, ratio=1.25) == pytest.approx(
        (5 - 2 * gain) * a / 6
    )
