"""How well a model chooses between its modes, from one table of judged responses per model.

    gap_recovery    = (acc_auto - acc_direct) / (acc_think - acc_direct)
    saving_recovery = (tokens_think - tokens_auto) / (tokens_think - tokens_oracle)
    h_acc           = share of items whose auto mode is the one with the higher mean score
    nauc, qnc       = area under the accuracy-cost frontier; cost of the best mode's accuracy

Sources: R-4B, Table 4, as a ratio; h_acc LHRM (arXiv 2505.14631); nauc, qnc MMR-Bench (2601.17814).

The oracle takes, item by item, the cheaper of the forced modes that are right, and the cheaper one
where neither is. A ratio is NaN where its denominator is under 0.05 of its scale: there is then
nothing to recover. Axis `I` is items, `R` bootstrap rounds; functions of means take scalars and [R]
alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bimode.evaluation.statistics import Array
from bimode.modes import Mode

SMALL = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """One judged response. `tokens` are counted from after ``<think>``, in every mode."""

    correct: bool
    tokens: int
    thought: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item under one model: a greedy outcome per mode, and 8 + 8 sampled ones where h_acc is
    measured.

    Example: ``ItemResult("digits-eval-0-7", "digits", "hard", "the strip ...", {Mode.AUTO:
    Outcome(True, 21, True)})``.
    """

    id: str
    task: str
    level: str
    question: str
    greedy: Mapping[Mode, Outcome]
    sampled: Mapping[Mode, tuple[Outcome, ...]] = field(default_factory=dict)
    refused: str = (
        ""  # why the engine did not take the prompt: all of `greedy` is wrong, at no token
    )


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Columns of a model's results, [I] each: what auto did, and what each forced mode would have
    given.
    """

    correct_auto_I: Array
    tokens_auto_I: Array
    thought_auto_I: Array
    correct_thinking_I: Array
    tokens_thinking_I: Array
    correct_direct_I: Array
    tokens_direct_I: Array

    @property
    def oracle_thinks_I(self) -> Array:
        """1 where the oracle thinks: only thinking is right, or both forced modes are alike and
        thinking is cheaper.
        """
        right_T, right_D = self.correct_thinking_I, self.correct_direct_I
        cheaper_T = self.tokens_thinking_I < self.tokens_direct_I
        return np.where(right_T == right_D, cheaper_T, right_T > right_D).astype(float)

    def routed(self, thinks_I: Array) -> tuple[Array, Array]:
        """Expected correctness and tokens by item of a router that thinks with probability
        `thinks_I`.
        """
        correct = thinks_I * self.correct_thinking_I + (1 - thinks_I) * self.correct_direct_I
        tokens = thinks_I * self.tokens_thinking_I + (1 - thinks_I) * self.tokens_direct_I
        return correct, tokens

    def columns(self) -> Array:
        """[7, I] in the order of `Means`; its mean over items, or over a resample, is a `Means`."""
        _, oracle_tokens_I = self.routed(self.oracle_thinks_I)
        return np.stack(
            [
                self.correct_auto_I,
                self.correct_thinking_I,
                self.correct_direct_I,
                self.tokens_auto_I,
                self.tokens_thinking_I,
                self.tokens_direct_I,
                oracle_tokens_I,
            ]
        )


def table(items: Sequence[ItemResult]) -> RoutingTable:
    """Columns of `items`, which must hold all three modes."""

    def column(mode: Mode, name: str) -> Array:
        return np.array([float(getattr(item.greedy[mode], name)) for item in items])

    return RoutingTable(
        column(Mode.AUTO, "correct"),
        column(Mode.AUTO, "tokens"),
        column(Mode.AUTO, "thought"),
        column(Mode.THINKING, "correct"),
        column(Mode.THINKING, "tokens"),
        column(Mode.NON_THINKING, "correct"),
        column(Mode.NON_THINKING, "tokens"),
    )


@dataclass(frozen=True, slots=True)
class Means:
    """Accuracies and tokens that the recoveries are made of; scalars, or [R] over bootstrap
    rounds.
    """

    accuracy_auto: Array | float
    accuracy_thinking: Array | float
    accuracy_direct: Array | float
    tokens_auto: Array | float
    tokens_thinking: Array | float
    tokens_direct: Array | float
    tokens_oracle: Array | float

    @property
    def gap_recovery(self) -> Array:
        gap = np.subtract(self.accuracy_thinking, self.accuracy_direct)
        return _ratio(np.subtract(self.accuracy_auto, self.accuracy_direct), gap, scale=1.0)

    @property
    def saving_recovery(self) -> Array:
        saving = np.subtract(self.tokens_thinking, self.tokens_oracle)
        return _ratio(
            np.subtract(self.tokens_thinking, self.tokens_auto), saving, scale=self.tokens_thinking
        )


def _ratio(numerator: Array, denominator: Array, scale: Array | float) -> Array:
    """`numerator / denominator`, NaN where the denominator is under `SMALL` of its scale (negative
    ones included).
    """
    # 1e-9 lets a gap of exactly 0.05 count, whatever its last bit
    defined = denominator >= SMALL * np.asarray(scale) - 1e-9
    defined &= denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def h_acc(items: Sequence[ItemResult]) -> float | None:
    """LHRM's hybrid accuracy over the items that have samples in both forced modes; ties go to the
    shorter mode.
    """
    hits = []
    for item in items:
        think, direct = item.sampled.get(Mode.THINKING, ()), item.sampled.get(Mode.NON_THINKING, ())
        if not think or not direct or Mode.AUTO not in item.greedy:
            continue
        gain = np.mean([o.correct for o in think]) - np.mean([o.correct for o in direct])
        shorter = np.mean([o.tokens for o in think]) < np.mean([o.tokens for o in direct])
        best_thinks = bool(gain > 0 or (gain == 0 and shorter))
        hits.append(item.greedy[Mode.AUTO].thought == best_thinks)
    return float(np.mean(hits)) if hits else None


Point = tuple[float, float]  # mean tokens, accuracy


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no cheaper or equally cheap one matches in accuracy, by rising cost."""
    kept: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


def nauc(points: Sequence[Point], cost_range: tuple[float, float]) -> float:
    """Mean accuracy under the frontier over a FIXED range of mean tokens, so that routers and
    models compare.

    MMR-Bench divides by each router's own range. Here nothing is affordable below the cheapest
    point (accuracy 0), the best accuracy holds above the dearest, and between two points a coin
    between them gives the straight line.
    """
    low, high = cost_range
    costs, accuracies = map(np.array, zip(*frontier(points), strict=True))
    grid = np.unique(
        np.concatenate(
            [costs[(costs > low) & (costs < high)], [max(low, min(costs[0], high)), high]]
        )
    )
    return float(np.trapezoid(np.interp(grid, costs, accuracies), grid) / (high - low))


def qnc(points: Sequence[Point], singles: Sequence[Point]) -> float:
    """Return the cost at which the router matches the best forced mode, as a share of that mode's
    cost.

    `points` are the router's, `singles` the forced modes'. The result is at most 1; 1 means that
    the router saves nothing or never reaches that accuracy.
    """
    best_cost, best_accuracy = max(singles, key=lambda p: (p[1], -p[0]))
    return (
        min(cost for cost, accuracy in [*points, *singles] if accuracy >= best_accuracy) / best_cost
    )
