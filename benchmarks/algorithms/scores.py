"""What a variant's runs are worth: seeds averaged, items resampled, against the annealed model on
the same items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bimode.evaluation.routing import ItemResult, Means, table
from bimode.evaluation.statistics import Array, bootstrap_means, percentile_interval
from bimode.modes import Mode
from pipelines.report.numbers import LEVELS
from pipelines.report.results import read_results

ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, its 95 % interval over items, and the lowest and highest seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """One line of the table. `think` is auto's think rate by level, `gain_*` are over the annealed
    model.
    """

    name: str
    seeds: int
    rollout_tokens: float
    direct: float
    auto: float
    thinking: float
    tokens: float
    think: tuple[float, ...]
    gap: Estimate
    saving: Estimate
    gain_saving: Estimate
    gain_accuracy: Estimate
    h_acc: float
    random_router: float
    question_router: float


def annealed_scores(run: Path) -> Scores:
    """The line of the model that all variants start from."""
    return _scores("annealed", [run], start_of(run))


def start_of(run: Path) -> str:
    """The name of that model in a run's results: a recipe without annealing starts from its
    base.
    """
    return "anneal" if (run / "evaluate" / "results" / "anneal.jsonl").is_file() else "base"


def variant_scores(name: str, runs: Sequence[Path]) -> Scores:
    """The line of a variant, from its runs of several seeds."""
    return _scores(name, runs, "bpo")


def _scores(name: str, runs: Sequence[Path], model: str) -> Scores:
    items = [read_results(run / "evaluate" / "results" / f"{model}.jsonl") for run in runs]
    before = [read_results(run / "evaluate" / "results" / f"{start_of(run)}.jsonl") for run in runs]
    columns_S7I = np.stack([table(found).columns() for found in items])
    before_S7I = np.stack([table(found).columns() for found in before])
    routing = [
        json.loads((run / "evaluate" / "report.json").read_text())["models"][model]["routing"]
        for run in runs
    ]
    means = columns_S7I.mean(axis=(0, 2))
    return Scores(
        name=name,
        seeds=len(runs),
        rollout_tokens=float(np.mean([rollout_tokens(run, model) for run in runs])),
        direct=means[2],
        auto=means[0],
        thinking=means[1],
        tokens=means[3],
        think=tuple(_think(items, x) for x in LEVELS),
        gap=estimate(columns_S7I, "gap_recovery"),
        saving=estimate(columns_S7I, "saving_recovery"),
        gain_saving=estimate(columns_S7I, "saving_recovery", before_S7I),
        gain_accuracy=estimate(columns_S7I, "accuracy_auto", before_S7I),
        h_acc=float(np.mean([r["h_acc"] for r in routing if r["h_acc"] is not None])),
        random_router=float(np.mean([r["baselines"]["random_same_rate"] for r in routing])),
        question_router=float(np.mean([r["baselines"]["question_only"] for r in routing])),
    )


def estimate(columns_S7I: Array, quantity: str, before_S7I: Array | None = None) -> Estimate:
    """`quantity` of `bimode.evaluation.routing.Means`, or how far it lies above `before_S7I`; means
    over seeds come before the ratio.
    """

    def of(means: Array) -> Array:
        value = np.asarray(getattr(Means(*means[:7]), quantity))
        return (
            value
            if before_S7I is None
            else value - np.asarray(getattr(Means(*means[7:]), quantity))
        )

    stacked_SKI = (
        columns_S7I if before_S7I is None else np.concatenate([columns_S7I, before_S7I], axis=1)
    )
    low, high = percentile_interval(of(bootstrap_means(stacked_SKI.mean(axis=0), ROUNDS, 0))) or (
        np.nan,
        np.nan,
    )
    by_seed = tuple(float(of(seed_KI.mean(axis=1))) for seed_KI in stacked_SKI)
    return Estimate(float(of(stacked_SKI.mean(axis=(0, 2)))), low, high, by_seed)


def rollout_tokens(run: Path, model: str) -> int:
    """Tokens that BPO drew in a run; 0 for the annealed model."""
    if model != "bpo":
        return 0
    return int(json.loads((run / "bpo" / "manifest.json").read_text())["counts"]["tokens"])


def _think(items: Sequence[Sequence[ItemResult]], level: str) -> float:
    return float(
        np.mean([i.greedy[Mode.AUTO].thought for found in items for i in found if i.level == level])
    )
