"""Pass counts -> the tag of a row: which mode it should be taught in.

`corrected` (ours). With k of n non-thinking attempts right, guess rate g and p = k / n, the
guess-corrected non-thinking rate is c(p) = (p - g) / (1 - g); its interval is c() of Wilson's
interval at `TagConfig.confidence`, which c() keeps in order.

    non_thinking   c(p) >= non_thinking_ok and the interval lies above non_thinking_poor
    thinking       c(p) < non_thinking_poor and the interval lies below non_thinking_ok
    either         the evidence does not say

A row that came out as `thinking` falls back to `either` if its thinking counts are no better than
its non-thinking ones, provided that the model can think at all (`can_think`): a base that was only
ever taught to answer directly fails every forced trace. Then the non-thinking counts alone decide,
as they do in R-4B.

With the defaults (n = 8, confidence 0.9, non_thinking_ok 0.75, non_thinking_poor 0.5) and g = 1/23
(guess rate of the built-in image families' hard questions), by k of 8 non-thinking attempts right,
thinking counts left out:

    k                 0     1     2     3     4     5     6     7     8
    corrected rate  0.00  0.09  0.22  0.35  0.48  0.61  0.74  0.87  1.00
    interval low    0.00  0.00  0.04  0.12  0.21  0.32  0.44  0.57  0.74
    interval high   0.22  0.38  0.52  0.64  0.74  0.83  0.91  0.97  1.00
    tag               T     T     T     T     T     E     E     N     N

A row with g = 1/2 is never `non_thinking` at n = 8: even 8 of 8 leaves room for luck, and then both
formats are taught.

`r4b` (arXiv 2508.21113, section 2): all n non-thinking attempts fail -> thinking, else
non_thinking.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import sqrt
from statistics import NormalDist
from typing import Literal

from bimode.config.curate import TagConfig
from bimode.evaluation.statistics import wilson

TagMode = Literal["thinking", "non_thinking", "either"]


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag with its evidence.

    Example: ``Tag(mode="thinking", reason="non_thinking_poor", confidence=0.998, interval=(0.05,
    0.52))``.
    """

    mode: TagMode
    # non_thinking_good | non_thinking_poor | non_thinking_unclear | thinking_no_better
    # | r4b_all_failed | r4b_some_passed
    reason: str
    # of the one-sided score test behind the tag; `either`: 1 minus that of the nearer side
    confidence: float
    interval: tuple[float, float]  # of the guess-corrected non-thinking rate


def correct_for_guessing(rate: float, guess_rate: float) -> float:
    """(rate - g) / (1 - g), not below 0: 0 is what blind answers score, 1 is always right."""
    return max(0.0, (rate - guess_rate) / (1 - guess_rate))


def can_think(n_pass: int, n: int, guess_rate: float, confidence: float) -> bool:
    """Whether a model's forced thinking, over all rows, is right more often than blind answers
    surely are.
    """
    return wilson(n_pass, n, confidence)[0] > guess_rate


def assign_tag(
    n_pass_non_thinking: int,
    n_pass_thinking: int,
    n: int,
    guess_rate: float,
    model_thinks: bool,
    config: TagConfig,
) -> Tag:
    """The tag of one row from `n` attempts in each mode. `model_thinks` is `can_think` over the
    whole run.
    """
    low, high = (
        correct_for_guessing(bound, guess_rate)
        for bound in wilson(n_pass_non_thinking, n, config.confidence)
    )
    rate = correct_for_guessing(n_pass_non_thinking / n, guess_rate)
    not_poor = _confidence_above(n_pass_non_thinking, n, guess_rate, config.non_thinking_poor)
    not_good = 1 - _confidence_above(n_pass_non_thinking, n, guess_rate, config.non_thinking_ok)
    if config.rule == "r4b":
        if n_pass_non_thinking == 0:
            return Tag("thinking", "r4b_all_failed", not_good, (low, high))
        return Tag("non_thinking", "r4b_some_passed", not_poor, (low, high))
    if rate >= config.non_thinking_ok and low > config.non_thinking_poor:
        return Tag("non_thinking", "non_thinking_good", not_poor, (low, high))
    if rate < config.non_thinking_poor and high < config.non_thinking_ok:
        if model_thinks and n_pass_thinking <= n_pass_non_thinking:
            return Tag("either", "thinking_no_better", 1 - not_good, (low, high))
        return Tag("thinking", "non_thinking_poor", not_good, (low, high))
    return Tag("either", "non_thinking_unclear", 1 - max(not_poor, not_good), (low, high))


def enough_attempts(guess_rate: float, config: TagConfig) -> int:
    """The fewest attempts in a mode after which a row whose non-thinking attempts are all right can
    be tagged non_thinking, e.g. 9 for a guess rate of 0.5.
    """
    return next(
        n for n in count(1) if assign_tag(n, 0, n, guess_rate, True, config).mode == "non_thinking"
    )


def _confidence_above(k: int, n: int, guess_rate: float, threshold: float) -> float:
    """One-sided confidence that the corrected rate exceeds `threshold`: the score test that
    Wilson's interval inverts.
    """
    p0 = guess_rate + (1 - guess_rate) * threshold
    if p0 <= 0.0 or p0 >= 1.0:
        return 1.0 if k / n > p0 else 0.0
    return NormalDist().cdf((k / n - p0) / sqrt(p0 * (1 - p0) / n))
