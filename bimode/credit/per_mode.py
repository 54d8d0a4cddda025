"""Per-mode credit: how to answer is judged inside a mode, which mode by the difference of the two (after CounterRoute).

The rollouts are BPO's: g forced thinking, g forced non-thinking. Two questions are kept apart:

    how to answer   each mode is a group of its own:  A_k = (r_k - mean_mode(r)) / std_mode(r), weight 1/|o_k| a token
    which mode      push = s tanh(mean r(thinking) - mean r(non-thinking) - margin), on the decision token alone

So a right answer never loses credit because the *other* mode does better, and the token that decides is the only one
that hears of the difference. `margin` is the price of thinking: a tie, and a question that neither mode can answer, go
to the shorter mode. `config.decision` says who hears of `push`; p is the probability of the better mode:

    preferred (ours)   the better mode's rollouts: A = |push|, weight 1/2. Mean push on the log-odds |push| (1 - p) / 2.
    counterfactual     both (CounterRoute): A = +-push, weight 1/4. Mean push |push| / 2, wherever the policy stands.

`preferred` is cross-entropy to the better mode, weighted by how much better it is. It unlearns a wrong habit as fast as
`counterfactual` and fades where the choice is made, so questions that are settled stop dragging those that are not, and
questions that look alike settle at odds of their summed pushes. It scores the whole forced trigger, so the direct mode's
``</think>`` too: where the first token alone is pushed the second is forgotten, and auto mode answers inside an open
think block. `counterfactual` never fades; only k3 holds it, near kl (pi_ref / pi - 1) = s |tanh(delta)|, and with
kl = 0 nothing does.

The decision weighs the same whatever the length of the response: among ten tokens as among ten thousand.
"""

from __future__ import annotations

import numpy as np

from bimode.config import BpoConfig
from bimode.credit.groups import BOTH_MODES, Algorithm, Array, TokenCredit, group_advantages, sequence_credit
from bimode.modes import Mode
from bimode.records import RolloutGroup

DECISION_WEIGHT = 0.25


def credit(group: RolloutGroup, config: BpoConfig) -> list[TokenCredit]:
    """Per-mode advantages; the decision token as `config.decision` says.

    `trained` gives it the advantage of its own response, whose mean is 0 in each mode: the choice hears noise only.
    """
    rewards_G = np.array(group.rewards_G, dtype=np.float64)
    is_thinking_G = np.array([c.mode is Mode.THINKING for c in group.completions])
    advantages_G = np.empty_like(rewards_G)
    for at_G in (is_thinking_G, ~is_thinking_G):
        advantages_G[at_G] = group_advantages(rewards_G[at_G])
    credits = [
        sequence_credit(completion, advantage, decision=config.decision == "trained")
        for completion, advantage in zip(group.completions, advantages_G, strict=True)
    ]
    push = thinking_advantage(rewards_G[is_thinking_G], rewards_G[~is_thinking_G], config)
    if config.decision == "counterfactual":
        return [
            each.with_decision(DECISION_WEIGHT, push if is_thinking else -push)
            for is_thinking, each in zip(is_thinking_G, credits, strict=True)
        ]
    if config.decision == "preferred":
        return [
            each.with_decision(2 * DECISION_WEIGHT, abs(push), c.num_forced) if is_thinking == (push > 0) else each
            for is_thinking, each, c in zip(is_thinking_G, credits, group.completions, strict=True)
        ]
    return credits


def thinking_advantage(thinking_G: Array, direct_G: Array, config: BpoConfig) -> float:
    """s tanh(delta): the advantage of having chosen to think, given the rewards of both modes."""
    return float(config.decision_scale * np.tanh(thinking_G.mean() - direct_G.mean() - config.margin))


PER_MODE = Algorithm(draws=BOTH_MODES, credit=credit)
