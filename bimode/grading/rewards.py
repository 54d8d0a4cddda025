"""The reward of a completion: 1 for a right answer that was finished, and what an option takes from
it.

Correctness is what a group is made with and what is logged; `shaped` is applied to it just before
credit is given, so that accuracy goes on meaning accuracy.
"""

from __future__ import annotations

from dataclasses import replace

from bimode.config.rl import BpoConfig
from bimode.grading.verify import is_right
from bimode.records import Completion, Prompt, RolloutGroup


def correctness(completion: Completion, prompt: Prompt) -> float:
    """1.0 if the answer is right and the response came to its end, else 0.0 (R-4B: rule-based, no
    length or format term).
    """
    return float(is_right(completion, prompt))


def overlong(num_tokens: int, max_tokens: int, buffer: float) -> float:
    """0 down to -1, linearly over the last share `buffer` of `max_tokens` (DAPO, arXiv 2503.14476,
    eq. 13).
    """
    room = buffer * max_tokens
    return -min(max(num_tokens - (max_tokens - room), 0.0) / room, 1.0) if room else 0.0


def shaped(group: RolloutGroup, config: BpoConfig) -> RolloutGroup:
    """`group` with the overlong term added to its rewards."""
    rewards_G = tuple(
        reward + overlong(c.num_tokens, config.max_tokens, config.overlong_buffer)
        for c, reward in zip(group.completions, group.rewards_G, strict=True)
    )
    return replace(group, rewards_G=rewards_G)
