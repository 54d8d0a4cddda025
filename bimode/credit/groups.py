"""What all credit functions share: a group's advantage, which tokens are scored, and with what weight.

    A_k = (r_k - mean(r)) / (std(r) + 1e-4)          over the G rollouts of a prompt

`std` is the sample standard deviation (G - 1) and the 1e-4 is added to it, as in TRL; the GRPO paper (arXiv 2402.03300,
section 4.1.2) says only "std". A group of equal rewards gives exactly 0.

Weights: a loss is a sum over tokens divided by the sum of the weights of the batch (`bimode.losses`). GRPO's
1/G sum_k 1/|o_k| sum_t is therefore a weight of 1/|o_k| on each scored token of o_k: a sequence weighs 1, the weights
of P groups add up to P G, and that is the `num_tokens` the learner divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bimode.config import BpoConfig
from bimode.errors import IncompleteGroupError, StaleWeightsError
from bimode.modes import Mode
from bimode.records import Completion, RolloutGroup

Array = NDArray[np.float64]

DECISION = 0  # where the choice of mode stands in `Completion.token_ids_T`
STD_EPS = 1e-4


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """Weight and advantage of each token of one completion; a weight of 0 means context."""

    weights_T: Array
    advantages_T: Array

    def with_decision(self, weight: float, advantage: float, tokens: int = 1) -> TokenCredit:
        """The same credit with the choice of mode, its first `tokens`, weighed and signed on its own."""
        weights_T, advantages_T = self.weights_T.copy(), self.advantages_T.copy()
        weights_T[DECISION : DECISION + tokens], advantages_T[DECISION : DECISION + tokens] = weight, advantage
        return TokenCredit(weights_T, advantages_T)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How a prompt is drawn, as (mode, multiple of g), and what each completion of the group then gets, in order."""

    draws: tuple[tuple[Mode, int], ...]
    credit: Callable[[RolloutGroup, BpoConfig], list[TokenCredit]]


BOTH_MODES = ((Mode.THINKING, 1), (Mode.NON_THINKING, 1))


def group_advantages(rewards_PG: Array) -> Array:
    """Rewards -> advantages of the same shape, normalised over the last axis (equation of the module)."""
    centred_PG = rewards_PG - rewards_PG.mean(-1, keepdims=True)
    dof = max(rewards_PG.shape[-1] - 1, 1)
    std_P1 = np.sqrt((centred_PG**2).sum(-1, keepdims=True) / dof)
    is_flat_P1 = np.ptp(rewards_PG, axis=-1, keepdims=True) == 0  # the mean of equal floats may miss them by an ulp
    return np.where(is_flat_P1, 0.0, centred_PG / (std_P1 + STD_EPS))


def sequence_credit(completion: Completion, advantage: float, *, decision: bool) -> TokenCredit:
    """One advantage for a whole sequence, every scored token with weight 1/|o|.

    Scored is what the policy generated, and the choice of mode exactly if `decision`. A forced ``</think>`` (token 1 of
    a non-thinking completion) is no action of the policy and is not scored here.
    """
    is_scored_T = np.arange(completion.num_tokens) >= completion.num_forced
    is_scored_T[DECISION] = decision
    return TokenCredit(
        weights_T=is_scored_T / max(is_scored_T.sum(), 1),
        advantages_T=np.where(is_scored_T, advantage, 0.0),
    )


def whole_group_credit(group: RolloutGroup, config: BpoConfig) -> list[TokenCredit]:
    """One advantage a sequence, normalised over all rollouts of the prompt: GRPO's and BPO's credit alike."""
    advantages_G = group_advantages(np.array(group.rewards_G, dtype=np.float64))
    return [
        sequence_credit(completion, advantage, decision=config.decision == "trained")
        for completion, advantage in zip(group.completions, advantages_G, strict=True)
    ]


def check(group: RolloutGroup, draws: tuple[tuple[Mode, int], ...]) -> None:
    """Proves that `group` holds exactly `draws` under one policy version.

    Raises IncompleteGroupError (another number of completions in a mode, or rewards that are missing or not finite) or
    StaleWeightsError (several versions in a group: its advantages would compare different policies).
    """
    wanted = {mode.value: n for mode, n in draws}
    found = {mode.value: len(group.of(mode)) for mode in Mode if group.of(mode)}
    if found != wanted:
        raise IncompleteGroupError(f"prompt {group.prompt.id}: completions {found} where {wanted} were asked for")
    if len(group.rewards_G) != len(group.completions) or not np.isfinite(group.rewards_G).all():
        raise IncompleteGroupError(f"prompt {group.prompt.id}: not one finite reward a completion: {group.rewards_G}")
    versions = sorted({v for c in group.completions for v in c.versions_T})
    if len(versions) != 1:
        raise StaleWeightsError(f"prompt {group.prompt.id}: one group holds tokens of policy versions {versions}")
