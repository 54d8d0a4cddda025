"""What all credit functions share: a group's advantage, which tokens are scored, and with what
weight.

    A_k = (r_k - mean(r)) / (std(r) + 1e-4)     over the G rollouts of a prompt
    A_k = r_k - mean(r)                         with `normalize = "none"`

`std` is the sample standard deviation (G - 1) and the 1e-4 is added to it, as in TRL; the GRPO
paper (arXiv 2402.03300, section 4.1.2) says only "std". A group of equal rewards gives exactly 0.

Credit marks the tokens of a response that are scored; what each of them weighs is the batch's
affair (`bimode.rl.credit`). Only a decision may have a weight of its own, counted in responses: a
response weighs 1, however long it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bimode.errors import IncompleteGroupError, StaleWeightsError
from bimode.modes import Mode
from bimode.records import Completion, RolloutGroup

Array = NDArray[np.float64]

DECISION = 0  # where the choice of mode stands in `Completion.token_ids_T`
STD_EPS = 1e-4
Decision = Literal["masked", "trained", "forced_as_sampled", "counterfactual", "preferred"]


@dataclass(frozen=True, slots=True)
class CreditSettings:
    """The keys of `[bpo]` that a credit function reads, at one step (`BpoConfig.credit_settings`).

    `margin` is in rewards; `decision_scale` is the largest advantage of a decision.
    """

    normalize: Literal["std", "none"]
    decision: Decision
    margin: float
    decision_scale: float


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """What the tokens of one completion are credited with, all [T]; a token neither scored nor
    weighed is context.

    `own_weights_T` weighs a decision on its own, in responses; `decision_logprob` replaces the
    behavior log-probability of the decision, NaN leaves the completion's.
    """

    is_scored_T: NDArray[np.bool_]
    own_weights_T: Array
    advantages_T: Array
    decision_logprob: float = math.nan

    def with_decision(self, weight: float, advantage: float, tokens: int = 1) -> TokenCredit:
        """The same credit with the choice of mode, its first `tokens`, weighed and signed on its
        own.
        """
        at_T = np.arange(len(self.is_scored_T)) < DECISION + tokens
        return replace(
            self,
            is_scored_T=self.is_scored_T & ~at_T,
            own_weights_T=np.where(at_T, weight, self.own_weights_T),
            advantages_T=np.where(at_T, advantage, self.advantages_T),
        )


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How a prompt is drawn, as (mode, multiple of g), and what each completion of the group then
    gets, in order.

    `defaults` are values of BpoConfig where the user gives none; `decisions` are the values that
    `bpo.decision` may have. An algorithm that `self_routes` also credits rollouts that chose their
    mode, beside the forced ones (`bpo.self_routed`). `reference_samples` is how many completions of
    each prompt the starting policy is judged by before the first step.
    """

    draws: tuple[tuple[Mode, int], ...]
    credit: Callable[[RolloutGroup, CreditSettings], list[TokenCredit]]
    decisions: tuple[Decision, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    self_routes: bool = False
    reference_samples: int = 0


AUTO_ONLY = ((Mode.AUTO, 2),)
BOTH_MODES = ((Mode.THINKING, 1), (Mode.NON_THINKING, 1))


def group_advantages(rewards_PG: Array, normalize: str = "std") -> Array:
    """Rewards -> advantages of the same shape, normalized over the last axis (equation of the
    module).
    """
    centered_PG = rewards_PG - rewards_PG.mean(-1, keepdims=True)
    dof = max(rewards_PG.shape[-1] - 1, 1)
    std_P1 = (
        np.sqrt((centered_PG**2).sum(-1, keepdims=True) / dof) + STD_EPS
        if normalize == "std"
        else 1.0
    )
    is_flat_P1 = (
        np.ptp(rewards_PG, axis=-1, keepdims=True) == 0
    )  # the mean of equal floats may miss them by an ulp
    return np.where(is_flat_P1, 0.0, centered_PG / std_P1)


def mode_advantages(group: RolloutGroup, rewards_G: Array, normalize: str) -> Array:
    """Advantages [G] of `rewards_G`, each mode of `group` normalized for itself."""
    advantages_G = np.zeros_like(rewards_G)
    for mode in Mode:
        if len(at := [i for i, c in enumerate(group.completions) if c.mode is mode]):
            advantages_G[at] = group_advantages(rewards_G[at], normalize)
    return advantages_G


def sequence_credit(completion: Completion, advantage: float, decision: Decision) -> TokenCredit:
    """One advantage for a whole sequence: for what the policy generated, and for the choice of mode
    if `decision` says so.

    Under `forced_as_sampled` a forced choice counts as drawn with probability 1/2 (AdaptThink,
    arXiv 2505.13417). A forced ``</think>`` (token 1 of a non-thinking completion) is no action of
    the policy and is not scored here.
    """
    is_scored_T = np.arange(completion.num_tokens) >= completion.num_forced
    is_scored_T[DECISION] = decision in ("trained", "forced_as_sampled")
    return TokenCredit(
        is_scored_T=is_scored_T,
        own_weights_T=np.zeros(completion.num_tokens),
        advantages_T=np.where(is_scored_T, advantage, 0.0),
        decision_logprob=(
            math.log(0.5) if decision == "forced_as_sampled" and completion.num_forced else math.nan
        ),
    )


def whole_group_credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """One advantage a sequence, normalized over all rollouts of the prompt: GRPO's and BPO's credit
    alike.
    """
    advantages_G = group_advantages(np.array(group.rewards_G, dtype=np.float64), settings.normalize)
    return [
        sequence_credit(completion, advantage, settings.decision)
        for completion, advantage in zip(group.completions, advantages_G, strict=True)
    ]


def check(group: RolloutGroup, draws: tuple[tuple[Mode, int], ...], max_staleness: int) -> None:
    """Proves that `group` holds exactly `draws`, under policy versions no further apart than
    `max_staleness`.

    Raises IncompleteGroupError (another number of completions in a mode, or rewards that are
    missing or not finite) or StaleWeightsError (versions further apart: its advantages would
    compare different policies).
    """
    wanted = {mode.value: n for mode, n in draws}
    found = {mode.value: len(group.of(mode)) for mode in Mode if group.of(mode)}
    if found != wanted:
        raise IncompleteGroupError(
            f"prompt {group.prompt.id}: completions {found} where {wanted} were asked for"
        )
    if len(group.rewards_G) != len(group.completions) or not np.isfinite(group.rewards_G).all():
        raise IncompleteGroupError(
            f"prompt {group.prompt.id}: not one finite reward a completion: {group.rewards_G}"
        )
    versions = sorted({v for c in group.completions for v in c.versions_T})
    if versions[-1] - versions[0] > max_staleness:
        raise StaleWeightsError(
            f"prompt {group.prompt.id}: one group holds tokens of policy versions {versions}"
        )
