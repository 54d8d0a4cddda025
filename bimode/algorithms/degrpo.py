"""DeGRPO (Thinkless, arXiv 2505.13379): one free group, the choice weighed apart from the response
that follows it.

    J = E_q [ 1/2g sum_k ( alpha L_k0 + 1/|o_k| sum_{t >= 1} L_kt ) ]
    L_kt = min( rho_kt A_k, clip(rho_kt) A_k )
    A_k = r'_k - mean(r'),   r' = 1 right and direct, .5 right after thinking, -1 wrong
    alpha = .001

Under 1/|o_k| alone the choice of a short response would weigh many times that of a long one. |o_k|
does not count the choice. r' is taken linearly from the reward r, r' = -1 + r (1 + v) with v = 1 or
.5, so that an overlong penalty counts in it (ours). 2g rollouts in auto mode; the KL weight is the
paper's.
"""

from __future__ import annotations

import numpy as np

from bimode.algorithms.base import (
    AUTO_ONLY,
    Algorithm,
    CreditSettings,
    TokenCredit,
    group_advantages,
    sequence_credit,
)
from bimode.modes import decides_direct
from bimode.records import RolloutGroup

DECISION_WEIGHT = 0.001  # alpha
DIRECT_REWARD, THINKING_REWARD = 1.0, 0.5


def credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """The equation of the module: one advantage a rollout, the sampled choice with a weight of its
    own.
    """
    worth_G = np.array(
        [DIRECT_REWARD if decides_direct(c.text) else THINKING_REWARD for c in group.completions]
    )
    rewards_G = -1 + np.array(group.rewards_G, dtype=np.float64) * (1 + worth_G)
    return [
        sequence_credit(completion, advantage, "masked").with_decision(DECISION_WEIGHT, advantage)
        for completion, advantage in zip(
            group.completions, group_advantages(rewards_G, settings.normalize).tolist(), strict=True
        )
    ]


ALGORITHM = Algorithm(
    draws=AUTO_ONLY,
    credit=credit,
    decisions=("trained",),
    defaults={"decision": "trained", "normalize": "none", "kl": 1e-3},
)
