"""Per-mode credit with the difference of the modes on the decision token (after CounterRoute; the weights are ours).

The rollouts are BPO's: g forced thinking, g forced non-thinking. Two questions are kept apart:

    how to answer   each mode is a group of its own:  A_k = (r_k - mean_mode(r)) / std_mode(r), weight 1/|o_k| a token
    which mode      delta = mean r(thinking) - mean r(non-thinking) - margin, weight 1/4 on the decision token:
                    A = +s tanh(delta) in thinking rollouts, -s tanh(delta) in the others

So a right answer never loses credit because the *other* mode does better, and the token that decides is the only one
that hears of the difference. `margin` is the price of thinking: a tie, and a question that neither mode can answer, go
to the shorter mode.

Both halves push the same log-odds. With p = pi(thinking) and ratio 1 the mean push is s tanh(delta) [(1 - p) + p] / 2:
it does not fade where the policy is sure, so a wrong habit is unlearnt as fast as a new one is learnt. What ends it is
k3, which grows like pi_ref / pi as a mode is given up: they balance near kl (pi_ref / pi - 1) = s |tanh(delta)|, which
keeps both modes alive. With kl = 0 nothing ends the push.

The decision weighs 1/4 whatever the length of the response. With s = 4 (CounterRoute's) it counts at most as much as a
response whose advantage is 1, among ten tokens as among ten thousand.
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
    if config.decision != "counterfactual":
        return credits
    for_thinking = thinking_advantage(rewards_G[is_thinking_G], rewards_G[~is_thinking_G], config)
    return [
        each.with_decision(DECISION_WEIGHT, for_thinking if is_thinking else -for_thinking)
        for is_thinking, each in zip(is_thinking_G, credits, strict=True)
    ]


def thinking_advantage(thinking_G: Array, direct_G: Array, config: BpoConfig) -> float:
    """s tanh(delta): the advantage of having chosen to think, given the rewards of both modes."""
    return float(config.decision_scale * np.tanh(thinking_G.mean() - direct_G.mean() - config.margin))


PER_MODE = Algorithm(draws=BOTH_MODES, credit=credit)
