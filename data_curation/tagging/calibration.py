"""How far a judge's verdicts agree with tags from pass counts, compared with two baselines.

Baselines: the most common tag, and a threshold on the question's length. The threshold is chosen on
one half of the rows and tested on the other, and the other way round, so that every row is tested
once and never on itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bimode.evaluation.statistics import wilson

WORDS = ("thinking", "non_thinking")


@dataclass(frozen=True, slots=True)
class Judged:
    """A row that has both, e.g. ``Judged("gsm8k-7", "thinking", "non_thinking", 182)``; the
    question has `length` characters.
    """

    id: str
    tag: str
    verdict: str
    length: int


@dataclass(frozen=True, slots=True)
class Rate:
    """`right` of `n` with Wilson's interval."""

    right: int
    n: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """NaN without any row."""
        return self.right / self.n if self.n else float("nan")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The judge and the baselines on the same rows. `kappa` (Cohen 1960) is None if chance alone
    would always agree.
    """

    judge: Rate
    kappa: float | None
    majority: Rate
    length: Rate
    # rows: tag thinking, non_thinking; columns: the verdict
    counts: tuple[tuple[int, int], tuple[int, int]]
    left_out: int  # rows whose tag or verdict is neither of the two words


def calibrate(rows: Sequence[Judged], confidence: float = 0.95) -> Calibration:
    """Compares verdicts with tags; the order of `rows` does not matter."""
    sound = sorted((r for r in rows if r.tag in WORDS and r.verdict in WORDS), key=lambda r: r.id)
    pairs = Counter((r.tag, r.verdict) for r in sound)
    counts = tuple(tuple(pairs[tag, verdict] for verdict in WORDS) for tag in WORDS)
    n, right = len(sound), pairs[WORDS[0], WORDS[0]] + pairs[WORDS[1], WORDS[1]]
    tags = Counter(r.tag for r in sound)

    def rate(hits: int) -> Rate:
        return Rate(hits, n, *wilson(hits, n, confidence))

    expected = sum(tags[word] * sum(pairs[tag, word] for tag in WORDS) for word in WORDS)
    return Calibration(
        judge=rate(right),
        kappa=None if expected == n * n else (n * right - expected) / (n * n - expected),
        majority=rate(max(tags.values(), default=0)),
        length=rate(_length_hits(sound)),
        counts=counts,  # type: ignore[arg-type]  # two by two
        left_out=len(rows) - n,
    )


def describe(found: Calibration) -> str:
    """A few lines for the terminal."""
    kappa = "" if found.kappa is None else f", Cohen's kappa {found.kappa:.2f}"
    lines = [f"curate: judge against pass counts, {found.judge.n} questions{kappa}"]
    for name in ("judge", "majority", "length"):
        rate: Rate = getattr(found, name)
        lines.append(f"curate:   {name:<9} {rate.accuracy:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
    return "\n".join(lines)


def _length_hits(sound: Sequence[Judged]) -> int:
    """Rows that a threshold chosen on the other half gets right; halves are every other row by
    id.
    """
    lengths = np.array([r.length for r in sound])
    thinks = np.array([r.tag == WORDS[0] for r in sound], dtype=bool)
    first = np.arange(len(sound)) % 2 == 0
    hits = 0
    for half in (first, ~first):
        threshold, long_thinks = choose_threshold(lengths[half], thinks[half])
        hits += int((((lengths[~half] > threshold) == long_thinks) == thinks[~half]).sum())
    return hits


def choose_threshold(
    lengths_N: NDArray[np.int64], thinks_N: NDArray[np.bool_]
) -> tuple[float, bool]:
    """The best rule `thinking if (length > threshold) is long_thinks`: (threshold, long_thinks).

    Every length is tried as a threshold, and -inf; of equally good ones the lowest, longer =
    thinking first.
    """
    best, rule = -1, (-np.inf, True)
    for long_thinks in (True, False):
        for threshold in (-np.inf, *np.unique(lengths_N).tolist()):
            hits = int((((lengths_N > threshold) == long_thinks) == thinks_N).sum())
            if hits > best:
                best, rule = hits, (threshold, long_thinks)
    return rule
