"""Importance sampling: how the policy loss accounts for tokens that were not drawn by the policy
that learns from them.

Three policies stand behind a token: pi_behaviour, the engine that drew it; pi_prox, the learner at
the start of the step; pi, the learner now. The surrogate of `bimode.rl.loss` is

    u_t min( rho_t A_t, clip(rho_t) A_t )          u_t without a gradient

    option      rho_t               u_t
    behavior    pi / pi_behaviour   1
    truncated   pi / pi_prox        min(pi_prox / pi_behaviour, C)
    decoupled   pi / pi_prox        pi_prox / pi_behaviour, and 0 where it is > C

In `behavior`, which is PPO's, the clip takes it all; `decoupled` rejects large ratios.
`truncated` is IMPALA's truncation (arXiv 1802.01561) on tokens, as verl and TRL (`token_truncate`)
correct what separates engine from learner. `decoupled` is decoupled PPO (arXiv 2110.00641) as AReaL
uses it for stale tokens (arXiv 2505.24298). A rejected token leaves the surrogate, not the
denominator, so rejecting makes a step smaller and never louder; its k3 towards the reference stays
(ours, as is the default of C for `decoupled`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bimode.config.rl import BpoConfig


@dataclass(frozen=True, slots=True)
class Correction:
    """Per token: log-probability under the policy that rho divides by, the weight u, and whether a
    cap was met. All [N].
    """

    anchor_N: Tensor
    weight_N: Tensor
    capped_N: Tensor


Importance = Callable[
    [Tensor, Tensor], Correction
]  # (behavior_N, proximal_N), log-probabilities without a graph


@dataclass(frozen=True, slots=True)
class Behavior:
    """rho over pi_behaviour, no further weight."""

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        return Correction(
            behavior_N, torch.ones_like(behavior_N), torch.zeros_like(behavior_N, dtype=torch.bool)
        )


BEHAVIOR = Behavior()  # the default of the losses


@dataclass(frozen=True, slots=True)
class Truncated:
    """rho over pi_prox, weighed by pi_prox / pi_behaviour up to `cap`."""

    cap: float

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        weight_N = (proximal_N - behavior_N).exp()
        return Correction(proximal_N, weight_N.clamp(max=self.cap), weight_N > self.cap)


@dataclass(frozen=True, slots=True)
class Decoupled:
    """rho over pi_prox, weighed by pi_prox / pi_behaviour; a token where that is over `cap` weighs
    nothing.
    """

    cap: float

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        weight_N = (proximal_N - behavior_N).exp()
        rejected_N = weight_N > self.cap
        return Correction(proximal_N, weight_N.masked_fill(rejected_N, 0.0), rejected_N)


def importance_of(config: BpoConfig) -> Importance:
    """What `bpo.importance` names, with its cap; a plain value that travels by pickle."""
    options: dict[str, Importance] = {
        "behavior": Behavior(),
        "truncated": Truncated(config.importance_cap),
        "decoupled": Decoupled(config.importance_reject),
    }
    return options[config.importance]
