"""Per-mode credit: how to answer is judged inside a mode, which mode by the difference of the two
(after CounterRoute).

The rollouts are BPO's: g forced thinking, g forced non-thinking. Two questions are kept apart:

    how to answer   each mode is a group of its own:  A_k = (r_k - mean_mode(r)) / std_mode(r),
                    weight 1/|o_k| a token
    which mode      push = s tanh(mean r(thinking) - mean r(non-thinking) - margin), on the
                    decision token alone

So a right answer never loses credit because the *other* mode does better, and the token that
decides is the only one that hears of the difference. `margin` is the price of thinking: a tie, and
a question that neither mode can answer, go to the shorter mode. `settings.decision` says who hears
of `push`; p is the probability of the better mode:

    preferred (ours)   the better mode's rollouts: A = |push|, weight 1/2. Mean push on the
                       log-odds |push| (1 - p) / 2.
    counterfactual     both (CounterRoute): A = +-push, weight 1/4. Mean push |push| / 2,
                       wherever the policy stands.

`preferred` is cross-entropy to the better mode, weighted by how much better it is. It unlearns a
wrong habit as fast as `counterfactual` and fades where the choice is made, so questions that are
settled stop dragging those that are not, and questions that look alike settle at odds of their
summed pushes. It scores the whole forced trigger, so the direct mode's ``</think>`` too: where the
first token alone is pushed the second is forgotten, and auto mode answers inside an open think
block. `counterfactual` never fades; only k3 holds it, near kl (pi_ref / pi - 1) = s |tanh(delta)|,
and with kl = 0 nothing does.

`trained` and `forced_as_sampled` give the decision the advantage of its own response, whose mean is
0 in each mode: noise only.

With `self_routed` some rollouts choose their mode themselves. They are a third group with ordinary
GRPO credit, the choice that they sampled included (CounterRoute, section 3): the policy then also
learns where it goes when it is free.

The decision weighs the same whatever the length of the response: among ten tokens as among ten
thousand.
"""

from __future__ import annotations

import numpy as np

from bimode.algorithms.base import (
    BOTH_MODES,
    Algorithm,
    CreditSettings,
    TokenCredit,
    mode_advantages,
    sequence_credit,
)
from bimode.modes import Mode
from bimode.records import Completion, RolloutGroup

DECISION_WEIGHT = 0.25


def credit(group: RolloutGroup, settings: CreditSettings) -> list[TokenCredit]:
    """Advantages mode by mode; the decision token as `settings.decision` says."""
    rewards_G = np.array(group.rewards_G, dtype=np.float64)
    advantages_G = mode_advantages(group, rewards_G, settings.normalize)
    push = thinking_advantage(group, settings)
    return [
        _completion_credit(completion, advantage, push, settings)
        for completion, advantage in zip(group.completions, advantages_G.tolist(), strict=True)
    ]


def thinking_advantage(group: RolloutGroup, settings: CreditSettings) -> float:
    """s tanh(delta): the advantage of having chosen to think, given the rewards of both forced
    modes.
    """
    thinking, direct = group.mean_reward(Mode.THINKING), group.mean_reward(Mode.NON_THINKING)
    return float(settings.decision_scale * np.tanh(thinking - direct - settings.margin))


def _completion_credit(
    completion: Completion, advantage: float, push: float, settings: CreditSettings
) -> TokenCredit:
    if completion.mode is Mode.AUTO:
        return sequence_credit(completion, advantage, "trained")
    credit, is_thinking = (
        sequence_credit(completion, advantage, settings.decision),
        completion.mode is Mode.THINKING,
    )
    if settings.decision == "counterfactual":
        return credit.with_decision(DECISION_WEIGHT, push if is_thinking else -push)
    if settings.decision == "preferred" and is_thinking == (push > 0):
        return credit.with_decision(2 * DECISION_WEIGHT, abs(push), completion.num_forced)
    return credit


ALGORITHM = Algorithm(
    draws=BOTH_MODES,
    credit=credit,
    decisions=("masked", "trained", "forced_as_sampled", "counterfactual", "preferred"),
    defaults={"decision": "preferred"},
    self_routes=True,
)
