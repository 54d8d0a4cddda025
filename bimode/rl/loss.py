"""What the learner minimizes: supervised and clipped-policy losses over the response tokens of a
packed micro-batch.

For the response tokens t of a batch, with weight w_t (`loss_mask_N`), and W (`num_tokens`) one
number for every micro-batch and rank, the sum of w_t over all of them (for `aggregate = "constant"`
the number of responses):

    sft      L = 1/W sum_t w_t (-log pi(t))
    policy   L = 1/W sum_t w_t [ -min( rho_t A_t, clip(rho_t, 1 - clip_low, 1 + clip_high) A_t )
                                 + kl k3_t ]
             rho_t = pi(t) / pi_behavior(t)
             k3_t = r_t - log r_t - 1,   r_t = pi_ref(t) / pi(t)

Three policies stand behind a token: pi_behavior, the engine that drew it; pi_prox, the learner at
the start of the step; pi, the learner now. `bpo.importance` chooses rho_t and a weight u_t (without
a gradient) on the surrogate:

    option      rho_t               u_t
    behavior    pi / pi_behavior   1
    truncated   pi / pi_prox        min(pi_prox / pi_behavior, C)
    decoupled   pi / pi_prox        pi_prox / pi_behavior, and 0 where it is > C

In `behavior`, which is PPO's, the clip takes it all; `decoupled` rejects large ratios. `truncated`
is IMPALA's truncation (arXiv 1802.01561) on tokens, as verl and TRL (`token_truncate`) correct what
separates engine from learner. `decoupled` is decoupled PPO (arXiv 2110.00641) as AReaL uses it for
stale tokens (arXiv 2505.24298). A rejected token leaves the surrogate, not the denominator, so
rejecting makes a step smaller and never louder; its k3 towards the reference stays (ours, as is the
default of C for `decoupled`).

The policy loss is GRPO's (arXiv 2402.03300, eq. 3 and 4) and so BPO's (R-4B, arXiv 2508.21113, eq.
1); which algorithm it is, and the 1/|o_i| before each sequence, sit in w and A, which
`bimode.rl.credit` fills in. Dividing by the *global* W makes the losses of micro-batches and ranks
add up to the loss of the batch.

A token whose behavior log-probability is NaN was not drawn by the policy (a forced decision
token): it counts as drawn by pi_prox, the policy at the start of the step. With one update a step
that is rho = pi / stop_gradient(pi), which is 1 in value and gives A_t grad log pi(t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bimode.config.rl import BpoConfig


@dataclass(frozen=True, slots=True)
class Correction:
    """What an option of importance sampling gives each token: the log-probability under the policy
    that rho divides by, the weight u, and whether a cap was met. All [N].
    """

    anchor_N: Tensor
    weight_N: Tensor
    capped_N: Tensor


Importance = Callable[
    [Tensor, Tensor], Correction
]  # (behavior_N, proximal_N), log-probabilities without a graph


@dataclass(frozen=True, slots=True)
class Behavior:
    """rho over pi_behavior, no further weight."""

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        return Correction(
            behavior_N, torch.ones_like(behavior_N), torch.zeros_like(behavior_N, dtype=torch.bool)
        )


BEHAVIOR = Behavior()  # the default of the losses


@dataclass(frozen=True, slots=True)
class Truncated:
    """rho over pi_prox, weighed by pi_prox / pi_behavior up to `cap`."""

    cap: float

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        weight_N = (proximal_N - behavior_N).exp()
        return Correction(proximal_N, weight_N.clamp(max=self.cap), weight_N > self.cap)


@dataclass(frozen=True, slots=True)
class Decoupled:
    """rho over pi_prox, weighed by pi_prox / pi_behavior; a token where that is over `cap` weighs
    nothing.
    """

    cap: float

    def __call__(self, behavior_N: Tensor, proximal_N: Tensor) -> Correction:
        """See the table of the module."""
        weight_N = (proximal_N - behavior_N).exp()
        rejected_N = weight_N > self.cap
        return Correction(proximal_N, weight_N.masked_fill(rejected_N, 0.0), rejected_N)


def importance_of(config: BpoConfig) -> Importance:
    """Return the correction that `bpo.importance` names, with its cap; a plain value that
    pickles.
    """
    options: dict[str, Importance] = {
        "behavior": Behavior(),
        "truncated": Truncated(config.importance_cap),
        "decoupled": Decoupled(config.importance_reject),
    }
    return options[config.importance]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Response tokens of one micro-batch, all [N]; only `logprobs_N` carries a graph."""

    logprobs_N: Tensor
    entropy_N: Tensor
    behavior_logprobs_N: Tensor  # NaN: on-policy token
    reference_logprobs_N: Tensor | None
    advantages_N: Tensor
    loss_mask_N: Tensor  # weight of each token; 0 is context
    proximal_logprobs_N: Tensor | None = (
        None  # at the start of the step; None: now, which is exact with one update a step
    )

    def scored(self) -> LossInputs:
        """Return the tokens with a weight: no value of a context token (NaN, inf) can reach loss or
        gradient.
        """
        at_N = self.loss_mask_N > 0
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        kept: dict[str, Any] = {
            name: None if value_N is None else value_N[at_N] for name, value_N in given
        }
        return LossInputs(**kept)

    def spread(self, **scored_values: Tensor) -> dict[str, Tensor]:
        """Return values of the scored tokens as detached floats of all tokens [N], 0 where a token
        is not scored.
        """
        at_N, zeros_N = self.loss_mask_N > 0, torch.zeros_like(self.loss_mask_N)
        return {
            name: zeros_N.masked_scatter(at_N, values.detach().to(zeros_N.dtype))
            for name, values in scored_values.items()
        }


@dataclass(frozen=True, slots=True)
class LossOutput:
    """`loss` is this micro-batch's share of the batch loss; `values` are detached, each [N] (see
    `bimode.rl.metrics`).
    """

    loss: Tensor
    values: dict[str, Tensor]


LossFn = Callable[[LossInputs, float], LossOutput]


def sft_loss(inputs: LossInputs, num_tokens: float) -> LossOutput:
    """Return the weighted negative log-likelihood over `num_tokens`, the global sum of the
    weights.
    """
    scored = inputs.scored()
    loss = -(scored.loss_mask_N * scored.logprobs_N).sum() / num_tokens
    ones_N = torch.ones_like(scored.logprobs_N)
    return LossOutput(
        loss, inputs.spread(tokens=ones_N, nll=-scored.logprobs_N, entropy=scored.entropy_N)
    )


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The clipped surrogate plus `kl` times k3; a plain value, so it travels to the learner by
    pickle.
    """

    clip_low: float
    clip_high: float
    kl: float
    importance: Importance = BEHAVIOR

    def __call__(self, inputs: LossInputs, num_tokens: float) -> LossOutput:
        """Compute the equation of the module. Raises ValueError if `kl` > 0 and the reference log-
        probabilities are missing.
        """
        scored = inputs.scored()
        logprobs_N, advantages_N = scored.logprobs_N, scored.advantages_N
        sampled_N = ~scored.behavior_logprobs_N.isnan()
        proximal_N = (
            logprobs_N.detach()
            if scored.proximal_logprobs_N is None
            else scored.proximal_logprobs_N
        )
        behavior_N = torch.where(sampled_N, scored.behavior_logprobs_N, proximal_N)
        correction = self.importance(behavior_N, proximal_N)
        ratio_N = (logprobs_N - correction.anchor_N).exp()
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_N = -correction.weight_N * torch.minimum(
            ratio_N * advantages_N, clipped_N * advantages_N
        )
        values = {
            "tokens": torch.ones_like(logprobs_N),
            "sampled": sampled_N,
            "entropy": scored.entropy_N,
            "ratio": ratio_N * sampled_N,
            "capped": correction.capped_N,
            "clipped_low": (ratio_N < 1 - self.clip_low) & (advantages_N < 0),
            "clipped_high": (ratio_N > 1 + self.clip_high) & (advantages_N > 0),
        }
        if scored.reference_logprobs_N is not None:
            values["kl"] = k3(scored.reference_logprobs_N - logprobs_N)
            loss_N = loss_N + self.kl * values["kl"]
        elif self.kl > 0:
            raise ValueError(
                f"kl = {self.kl}: the policy loss needs the log-probabilities of the reference"
            )
        return LossOutput((scored.loss_mask_N * loss_N).sum() / num_tokens, inputs.spread(**values))


def policy_loss(
    clip_low: float, clip_high: float, kl: float, importance: Importance = BEHAVIOR
) -> LossFn:
    """Make the loss of GRPO, BPO and per-mode credit."""
    return PolicyLoss(clip_low, clip_high, kl, importance)


def k3(log_ratio_N: Tensor) -> Tensor:
    """Return Schulman's non-negative estimate of KL(q || p), [N], from tokens drawn under q and
    log_ratio = log p - log q.
    """
    return log_ratio_N.exp() - log_ratio_N - 1
