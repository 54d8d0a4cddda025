"""Vanilla GRPO in auto mode (arXiv 2402.03300, eq. 3): 2g rollouts of a query after ``<think>``, the model chooses the mode.

    J = E_q [ 1/(2g) sum_k 1/|o_k| sum_t min( rho_kt A_k, clip(rho_kt, 1 - eps, 1 + eps) A_k )  -  beta D_KL ]

R-4B's baseline (figure 10, where it collapses to thinking). 2g, so that it spends the rollouts that BPO spends. The decision
is a sampled token like any other; `decision = masked` takes it out of the loss (AdaCoT's selective loss masking).
"""

from __future__ import annotations

import numpy as np

from bimode.config import BpoConfig
from bimode.credit.groups import Algorithm, TokenCredit, group_advantages, sequence_credit
from bimode.modes import Mode
from bimode.records import RolloutGroup


def credit(group: RolloutGroup, config: BpoConfig) -> list[TokenCredit]:
    """One advantage a sequence, normalised over the 2g auto rollouts."""
    advantages_G = group_advantages(np.array(group.rewards_G))
    return [
        sequence_credit(completion, advantage, decision=config.decision == "trained")
        for completion, advantage in zip(group.completions, advantages_G, strict=True)
    ]


GRPO = Algorithm(draws=((Mode.AUTO, 2),), credit=credit)
