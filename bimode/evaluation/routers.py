"""Routers that auto mode is measured against. A router is a probability of thinking per item, [I].

`random_same_rate` flips auto's own think rate as a coin. `question_only` sees nothing but the words
of the question and thinks as often as auto does: where it comes near auto, the wording gives the
difficulty away. `oracle` is in `bimode.evaluation.routing`. Expectations are exact, nothing is
drawn.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bimode.evaluation.routing import Means, Point, RoutingTable, nauc, qnc
from bimode.evaluation.statistics import Array

FOLDS = 5
MAX_WORDS = 512
RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class RouterResult:
    """What a router would have given with this model's two forced modes; recoveries are NaN where
    undefined.
    """

    accuracy: float
    tokens_mean: float
    think_rate: float
    gap_recovery: float
    saving_recovery: float
    nauc: float
    qnc: float


def measure(
    columns: RoutingTable, thinks_I: Array, cost_range: tuple[float, float]
) -> RouterResult:
    """Accuracy, tokens and recoveries of the router `thinks_I` on the table's forced modes."""
    correct_I, tokens_I = columns.routed(thinks_I)
    return measure_policy(columns, correct_I, tokens_I, thinks_I, cost_range)


def measure_policy(
    columns: RoutingTable,
    correct_I: Array,
    tokens_I: Array,
    thinks_I: Array,
    cost_range: tuple[float, float],
) -> RouterResult:
    """The same numbers for a policy with its own outcomes, such as auto mode."""
    base = columns.columns().mean(axis=1)
    means = Means(correct_I.mean(), base[1], base[2], tokens_I.mean(), base[4], base[5], base[6])
    singles: list[Point] = [(float(base[5]), float(base[2])), (float(base[4]), float(base[1]))]
    point = (float(tokens_I.mean()), float(correct_I.mean()))
    return RouterResult(
        accuracy=point[1],
        tokens_mean=point[0],
        think_rate=float(thinks_I.mean()),
        gap_recovery=float(means.gap_recovery),
        saving_recovery=float(means.saving_recovery),
        nauc=nauc([*singles, point], cost_range),
        qnc=qnc([point], singles),
    )


def random_same_rate(columns: RoutingTable) -> Array:
    """Auto's think rate on every item alike."""
    return np.full(len(columns.thought_auto_I), columns.thought_auto_I.mean())


def question_only(columns: RoutingTable, questions: Sequence[str], ids: Sequence[str]) -> Array:
    """A router that sees the question's words only, cross-fitted on the items, at auto's think
    rate.

    Ridge regression of thinking's gain on words, word pairs and length. Each of `FOLDS` folds (by
    item id) is scored by a fit on the others, relative to their mean gain: an item that is left out
    lowers the mean of the rest, and must not lose its rank by that. The highest scores think, equal
    ones share the rest of the budget.
    """
    rate = float(columns.thought_auto_I.mean())
    gain_I = columns.correct_thinking_I - columns.correct_direct_I
    features_IF = _features(questions)
    fold_I = np.array(
        [int(hashlib.blake2b(i.encode(), digest_size=4).hexdigest(), 16) % FOLDS for i in ids]
    )
    scores_I = np.zeros(len(questions))
    for fold in np.unique(fold_I):
        inside = fold_I == fold
        outside = ~inside if (~inside).any() else inside
        x, y = features_IF[outside], gain_I[outside]
        center = x.mean(axis=0)
        gram = (x - center).T @ (x - center) + RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x - center).T @ (y - y.mean()))
        scores_I[inside] = (features_IF[inside] - center) @ weights
    return _top_share(np.round(scores_I, 9), rate)


def _features(questions: Sequence[str]) -> Array:
    """Presence of the most frequent words and word pairs, and the length in words over 100: [I,
    F].
    """
    terms = []
    for question in questions:
        words = question.lower().split()
        terms.append({*words, *(f"{a} {b}" for a, b in pairwise(words))})
    counts = Counter(term for found in terms for term in found)
    kept = sorted(counts, key=lambda term: (-counts[term], term))[:MAX_WORDS]
    column = {term: i for i, term in enumerate(kept)}
    features_IF = np.zeros((len(questions), len(kept) + 1))
    for row, found in enumerate(terms):
        features_IF[row, [column[term] for term in found if term in column]] = 1.0
        features_IF[row, -1] = len(questions[row].split()) / 100
    return features_IF


def _top_share(scores_I: Array, share: float) -> Array:
    """1 for the highest scores until `share` of the items is reached; items that tie at the edge
    get one fraction.
    """
    budget = share * len(scores_I)
    thinks_I = np.zeros(len(scores_I))
    for score in np.unique(scores_I)[::-1]:
        tied = scores_I == score
        thinks_I[tied] = min(1.0, budget / tied.sum())
        budget = max(0.0, budget - tied.sum())
    return thinks_I
