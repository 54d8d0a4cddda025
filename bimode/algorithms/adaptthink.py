"""AdaptThink (arXiv 2505.13417): answer at once wherever that is no worse than the model that
training starts from.

    A_k = 1[direct] delta + r_k - Rbar_ref,     delta = `bpo.margin` = .05

Rbar_ref is the mean reward of the starting policy on the same question in auto mode, drawn once
before the first step (8 samples each; 16 in the paper). Half of the rollouts are forced into each
mode. The forced first token is scored as if it had been drawn with probability 1/2
(`forced_as_sampled`), so that its ratio is pi / .5, clipped as any other. No std, no KL.

The paper's code has one ratio a sequence, exp(mean log pi - mean log pi_old); ours is a token's, as
everywhere here.
"""

from __future__ import annotations

import math

from bimode.algorithms.base import (
    BOTH_MODES,
    Algorithm,
    CreditSettings,
    TokenCredit,
    sequence_credit,
)
from bimode.errors import IncompleteGroupError
from bimode.modes import Mode
from bimode.records import RolloutGroup


def credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """The equation of the module, one advantage a sequence. Raises IncompleteGroupError without a
    reference reward.
    """
    if math.isnan(group.reference_reward):
        raise IncompleteGroupError(
            f"prompt {group.prompt.id}: no reward of the starting policy to compare with"
        )
    return [
        sequence_credit(
            completion,
            settings.margin * (completion.mode is Mode.NON_THINKING)
            + reward
            - group.reference_reward,
            settings.decision,
        )
        for completion, reward in zip(group.completions, group.rewards_G, strict=True)
    ]


ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=credit,
    decisions=("forced_as_sampled", "trained", "masked"),
    defaults={"decision": "forced_as_sampled", "margin": 0.05, "normalize": "none", "kl": 0.0},
    reference_samples=8,
)
