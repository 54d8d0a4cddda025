"""HGPO (LHRM, arXiv 2505.14631, section 2.3): within a mode the best answers, between the modes the
better one.

    r_inter = 1 for every rollout of the better mode, else 0
    r_intra = 1 for a rollout whose reward is the highest of its mode, else 0
    A_kt    = A_intra_k + 1[t is the decision] alpha A_inter_k,   alpha = 1

The better mode is argmax{ mean r(thinking), mean r(direct) + delta }, delta = `bpo.margin` = .2.

Both are normalized as in GRPO, intra in its mode and inter over both (ours: we have no code of the
paper to compare with); of equal rewards each is the best, so a mode that is all wrong teaches
nothing (ours), and a tie goes to direct (ours). The forced decision is the first token of its
response. The clip .5 and the KL weight are the paper's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bimode.algorithms.base import (
    BOTH_MODES,
    DECISION,
    Algorithm,
    Array,
    CreditSettings,
    TokenCredit,
    group_advantages,
    mode_advantages,
    sequence_credit,
)
from bimode.modes import Mode
from bimode.records import RolloutGroup

INTER_WEIGHT = 1.0  # alpha


def credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """The equation of the module: A_intra on a whole sequence, and A_inter besides on its
    decision.
    """
    thinking, direct = group.mean_reward(Mode.THINKING), group.mean_reward(Mode.NON_THINKING)
    better = Mode.THINKING if thinking > direct + settings.margin else Mode.NON_THINKING
    inter_G = group_advantages(
        np.array([float(c.mode is better) for c in group.completions]), settings.normalize
    )
    intra_G = mode_advantages(group, _is_best(group), settings.normalize)
    credits = []
    for completion, intra, inter in zip(
        group.completions, intra_G.tolist(), inter_G.tolist(), strict=True
    ):
        each = sequence_credit(completion, intra, settings.decision)
        is_decision_T = np.arange(completion.num_tokens) == DECISION
        credits.append(
            replace(each, advantages_T=each.advantages_T + INTER_WEIGHT * inter * is_decision_T)
        )
    return credits


def _is_best(group: RolloutGroup) -> Array:
    """1 for each completion with the highest reward of its mode, else 0, [G]."""
    scored = list(zip(group.completions, group.rewards_G, strict=True))
    best = {
        mode: max(r for c, r in scored if c.mode is mode)
        for mode in (Mode.THINKING, Mode.NON_THINKING)
    }
    return np.array([float(r == best[c.mode]) for c, r in scored])


ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=credit,
    decisions=("trained", "forced_as_sampled"),
    defaults={"decision": "trained", "margin": 0.2, "clip_low": 0.5, "clip_high": 0.5, "kl": 1e-3},
)
