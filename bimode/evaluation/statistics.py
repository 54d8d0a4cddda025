"""Intervals: Wilson's for a share, the percentile bootstrap by item for whatever is a function of
means.

Every quantity of a report is a function of per-item means, so a bootstrap round is a vector of
multinomial item counts and all rounds are one matrix product. Quantities resampled in one call
share their items: differences are paired.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_UNDEFINED_SHARE = 0.05  # of the rounds; beyond it a ratio has no honest interval
_BLOCK_COUNTS = 4_000_000  # item counts held at once


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of a binomial share (Wilson 1927). No trials: the whole unit
    interval.

    Example: ``wilson(4, 8) == (0.2152..., 0.7847...)``.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return low, high


def bootstrap_means(values_KI: Array, rounds: int, seed: int) -> Array:
    """Means of K quantities over I items in each of R resamples by item: [K, R]; all K share a
    round's items.
    """
    num_items = values_KI.shape[1]
    if num_items == 0:
        raise ValueError("no items to resample")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_COUNTS // num_items)
    share = np.full(num_items, 1 / num_items)
    means = [
        values_KI @ rng.multinomial(num_items, share, size=min(block, rounds - start)).T / num_items
        for start in range(0, rounds, block)
    ]
    return np.concatenate(means, axis=1)


def percentile_interval(replicates_R: Array, level: float = 0.95) -> tuple[float, float] | None:
    """Central interval of bootstrap replicates; None if more than `MAX_UNDEFINED_SHARE` of them are
    undefined (NaN).
    """
    defined = replicates_R[np.isfinite(replicates_R)]
    if len(defined) < (1 - MAX_UNDEFINED_SHARE) * len(replicates_R) or len(defined) == 0:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def percent(share: float, decimals: int = 0) -> str:
    """``percent(0.125, 1)`` is ``12.5 %``."""
    return f"{100 * share:.{decimals}f} %"
