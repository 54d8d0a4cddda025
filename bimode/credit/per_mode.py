"""Per-mode credit with the modes' difference on the decision token (after CounterRoute; weights and defaults are ours).

The rollouts are BPO's: g forced thinking, g forced non-thinking. Two questions are kept apart:

    how to answer   each mode is a group of its own:  A_k = (r_k - mean_mode(r)) / std_mode(r), weight 1/|o_k| a token
    which mode      delta = mean r(thinking) - mean r(non-thinking) - margin
                    A = +s tanh(delta) on the decision of thinking rollouts, -s tanh(delta) on the others, weight 1/4

A right answer is then never pushed down because the *other* mode does better, and the token that decides is the only one that
hears about the difference. `margin` is the price of thinking: a tie, and a question that neither mode can answer, go to the
shorter mode.

Both halves push the same log-odds. With p = pi(thinking) and on-policy ratio 1 the mean push on the log-odds is
s tanh(delta) [(1 - p) + p] / 2: it does not fade when the policy is already sure, wrongly or rightly, so a wrong habit is
unlearnt as fast as a new one is learnt; what ends the push is k3, which grows like pi_ref / pi as a mode is given up and
balances it where kl (pi_ref / pi - 1) = s |tanh(delta)|. With kl = 0 nothing ends it.

The decision weighs 1/4 whatever the length of the response: with CounterRoute's s = 4 a decision counts at most as much as a
response whose advantage is 1, in a group of ten tokens as in one of ten thousand.
"""

from __future__ import annotations

import numpy as np

from bimode.config import BpoConfig
from bimode.credit.groups import BOTH_MODES, DECISION, Algorithm, TokenCredit, group_advantages, sequence_credit
from bimode.modes import Mode
from bimode.records import RolloutGroup

DECISION_WEIGHT = 0.25


def credit(group: RolloutGroup, config: BpoConfig) -> list[TokenCredit]:
    """Per-mode advantages; the decision token as `config.decision` says.

    `trained` gives it the advantage of its own response, which is 0 on average in each mode: the choice gets noise, no signal.
    """
    rewards_G = np.array(group.rewards_G)
    is_thinking_G = np.array([c.mode is Mode.THINKING for c in group.completions])
    advantages_G = np.empty_like(rewards_G)
    for at_G in (is_thinking_G, ~is_thinking_G):
        advantages_G[at_G] = group_advantages(rewards_G[at_G])
    credits = [
        sequence_credit(completion, advantage, decision=config.decision == "trained")
        for completion, advantage in zip(group.completions, advantages_G, strict=True)
    ]
    if config.decision == "counterfactual":
        advantage = decision_advantage(rewards_G, is_thinking_G, config)
        for is_thinking, each in zip(is_thinking_G, credits, strict=True):
            each.weights_T[DECISION] = DECISION_WEIGHT
            each.advantages_T[DECISION] = advantage if is_thinking else -advantage
    return credits


def decision_advantage(rewards_G: np.ndarray, is_thinking_G: np.ndarray, config: BpoConfig) -> float:
    """s tanh(delta): what choosing to think gets on this prompt; choosing not to gets the negative."""
    delta = rewards_G[is_thinking_G].mean() - rewards_G[~is_thinking_G].mean() - config.margin
    return float(config.decision_scale * np.tanh(delta))


PER_MODE = Algorithm(draws=BOTH_MODES, credit=credit)
