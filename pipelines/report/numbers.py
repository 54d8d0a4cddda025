"""Judged responses -> report.json (docs/formats.md has its fields; a number that is undefined is
null).

Beside the numbers themselves, `routing` holds the bootstrap intervals, the fixed cost range of
nauc, and under `baselines_detail` what each baseline router spends and recovers at auto's own think
rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bimode.evaluation import routers, routing
from bimode.evaluation.routing import ItemResult, Means, Outcome
from bimode.evaluation.statistics import bootstrap_means, percentile_interval, wilson
from bimode.modes import Mode

LEVELS = ("easy", "mid", "hard")
Results = Mapping[str, Sequence[ItemResult]]


def model_numbers(
    items: Sequence[ItemResult], rounds: int, seed: int, cost_range: tuple[float, float]
) -> dict[str, Any]:
    """The report of one model: by benchmark, by difficulty, overall, and its routing."""
    benchmarks = {}
    for task in sorted({item.task for item in items}):
        own = [item for item in items if item.task == task]
        by_difficulty = {}
        for level in LEVELS:
            at_level = [item for item in own if item.level == level]
            if at_level:
                by_difficulty[level] = by_mode(at_level)
        benchmarks[task] = {"n": len(own), "modes": by_mode(own), "by_difficulty": by_difficulty}
    return {
        "benchmarks": benchmarks,
        "overall": by_mode(items),
        "routing": routing_numbers(items, rounds, seed, cost_range),
    }


def by_mode(items: Sequence[ItemResult]) -> dict[str, dict[str, Any]]:
    """Accuracy with Wilson's interval, tokens and think rate of each mode that was run."""
    found = {}
    for mode in (Mode.NON_THINKING, Mode.AUTO, Mode.THINKING):
        if mode in items[0].greedy:
            found[mode.value] = _mode_numbers([item.greedy[mode] for item in items])
    return found


def _mode_numbers(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    num_correct = sum(outcome.correct for outcome in outcomes)
    tokens = np.array([outcome.tokens for outcome in outcomes])
    interval = wilson(num_correct, len(outcomes))
    return {
        "accuracy": _number(num_correct / len(outcomes)),
        "accuracy_ci95": [_number(bound) for bound in interval],
        "tokens_mean": _number(tokens.mean()),
        "tokens_p95": _number(np.percentile(tokens, 95)),
        "think_rate": _number(np.mean([outcome.thought for outcome in outcomes])),
    }


def routing_numbers(
    items: Sequence[ItemResult], rounds: int, seed: int, cost_range: tuple[float, float]
) -> dict[str, Any] | None:
    """How auto chooses; None where one of the three modes was not run."""
    if set(items[0].greedy) != set(Mode):
        return None
    table = routing.table(items)
    auto = routers.measure_policy(
        table, table.correct_auto_I, table.tokens_auto_I, table.thought_auto_I, cost_range
    )
    means_R = Means(*bootstrap_means(table.columns(), rounds, seed))
    questions = [item.question for item in items]
    ids = [item.id for item in items]
    policies = {
        "random_same_rate": routers.random_same_rate(table),
        "question_only": routers.question_only(table, questions, ids),
        "oracle": table.oracle_thinks_I,
    }
    baselines, detail = {}, {}
    for name, thinks_I in policies.items():
        measured = asdict(routers.measure(table, thinks_I, cost_range))
        detail[name] = {key: _number(value) for key, value in measured.items()}
        baselines[name] = detail[name]["accuracy"]
    return {
        "gap_recovery": _number(auto.gap_recovery),
        "gap_recovery_ci95": _interval(means_R.gap_recovery, auto.gap_recovery),
        "saving_recovery": _number(auto.saving_recovery),
        "saving_recovery_ci95": _interval(means_R.saving_recovery, auto.saving_recovery),
        "h_acc": _number(routing.h_acc(items)),
        "h_acc_n": sum(bool(item.sampled) for item in items),
        "tokens_vs_thinking": _number(auto.tokens_mean / table.tokens_thinking_I.mean()),
        "nauc": _number(auto.nauc),
        "qnc": _number(auto.qnc),
        "cost_range": list(cost_range),
        "baselines": baselines,
        "baselines_detail": detail,
    }


def gain(
    new: Sequence[ItemResult], old: Sequence[ItemResult], rounds: int, seed: int
) -> dict[str, Any]:
    """Compare two models on the same items.

    Returns, for each of gap_recovery, saving_recovery and accuracy_auto, `[new - old, low, high]`
    with a paired bootstrap interval, or None if it is undefined for either model. Raises ValueError
    if the items differ.
    """
    if [item.id for item in new] != [item.id for item in old]:
        raise ValueError("a paired interval needs the same items in the same order")
    columns = np.concatenate([routing.table(new).columns(), routing.table(old).columns()])
    half = len(columns) // 2
    point = columns.mean(axis=1)
    rounds_R = bootstrap_means(columns, rounds, seed)  # one draw for both keeps the items paired
    new_point, old_point = Means(*point[:half]), Means(*point[half:])
    new_R, old_R = Means(*rounds_R[:half]), Means(*rounds_R[half:])
    found: dict[str, Any] = {}
    for name in ("gap_recovery", "saving_recovery", "accuracy_auto"):
        difference = float(getattr(new_point, name) - getattr(old_point, name))
        interval = _interval(getattr(new_R, name) - getattr(old_R, name), difference)
        found[name] = [_number(difference), *interval] if interval else None
    return found


def report(
    results: Results,
    *,
    rounds: int,
    seed: int,
    max_tokens: int,
    data: Mapping[str, Any],
    sampling: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """report.json. nauc's cost range is 0 to the token limit, so that models, runs and baselines
    compare.
    """
    cost_range = (0.0, float(max_tokens))
    gains = {}
    pair = [results.get("bpo"), results.get("anneal")]
    if all(pair) and all(set(items[0].greedy) == set(Mode) for items in pair if items):
        gains["bpo_over_anneal"] = gain(results["bpo"], results["anneal"], rounds, seed)
    return {
        "models": {
            name: model_numbers(items, rounds, seed, cost_range) for name, items in results.items()
        },
        "gain": gains,
        "data": dict(data),
        "sampling": dict(sampling),
        "versions": dict(versions),
    }


def _number(value: Any) -> float | None:
    """A JSON number with six digits, None for what is undefined."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _interval(replicates_R: Any, point: float) -> list[float | None] | None:
    interval = percentile_interval(replicates_R) if math.isfinite(point) else None
    return [_number(x) for x in interval] if interval else None
