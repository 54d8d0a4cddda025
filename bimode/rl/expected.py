"""What auto mode would score at a step, worked out from rollouts that were drawn for learning: no
extra generation.

    accuracy = mean over prompts of  p right(thinking) + (1 - p) right(direct)
    p        = share of the probes that think

and tokens alike. The two modes of a prompt are drawn under the same policy as its probes, so both
are unbiased at the rollouts' temperature. Where rollouts are drawn in auto mode, they are counted
as they are. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bimode.modes import Mode, decides_direct
from bimode.records import Completion, RolloutGroup


@dataclass(frozen=True, slots=True)
class ExpectedAuto:
    """Means over the prompts of a step: `accuracy` and `think_rate` in [0, 1], `tokens` after
    ``<think>``.
    """

    accuracy: float
    tokens: float
    think_rate: float


def expected_auto(groups: Sequence[RolloutGroup], probes: Sequence[Completion]) -> ExpectedAuto:
    """Auto mode at this step. `probes` are bare decisions in auto mode, any number a prompt;
    rewards are 0/1 verdicts.

    Raises ValueError for a group that holds neither auto rollouts nor both forced modes with a
    probe.
    """
    thinks: dict[str, list[float]] = {}
    for probe in probes:
        thinks.setdefault(probe.prompt_id, []).append(float(not decides_direct(probe.text)))
    rows = [_of_group(group, thinks.get(group.prompt.id, [])) for group in groups]
    return ExpectedAuto(*np.mean(rows, axis=0).tolist())


def _of_group(group: RolloutGroup, thinks: list[float]) -> tuple[float, float, float]:
    by_mode = {
        mode: np.mean([(r >= 1.0, c.num_tokens) for c, r in pairs], axis=0)
        for mode in Mode
        if (
            pairs := [
                (c, r)
                for c, r in zip(group.completions, group.rewards_G, strict=True)
                if c.mode is mode
            ]
        )
    }
    if thinks and {Mode.THINKING, Mode.NON_THINKING} <= by_mode.keys():
        share = float(np.mean(thinks))
        right, tokens = share * by_mode[Mode.THINKING] + (1 - share) * by_mode[Mode.NON_THINKING]
        return right, tokens, share
    if Mode.AUTO not in by_mode:
        raise ValueError(
            f"prompt {group.prompt.id}: neither auto rollouts nor both modes and a probe"
        )
    chosen = [float(not decides_direct(c.text)) for c in group.of(Mode.AUTO)]
    return by_mode[Mode.AUTO][0], by_mode[Mode.AUTO][1], float(np.mean(chosen))
