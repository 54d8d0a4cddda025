"""T1, text only: puzzles of reasoning-gym (Apache-2.0), judged by the library's own verifier.

Only tasks for which the reasoning can be written down step by step from the puzzle's own metadata
are offered: a trace that is not derived would be a guess. Difficulty is one knob of the generator,
split into thirds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from bimode.errors import ConfigError
from bimode.records import Sample
from data_curation.demo.canvas import draw_level, make_sample, rng_of, sampled_blind

GUESS_PROBE = 500  # items from which the most common answer's share is measured


def chain_sum_trace(metadata: dict[str, Any]) -> str:
    """A running sum: ``12 + 35 > 47 ; - 14 > 33 ; so 33``."""
    first, *rest = metadata["expression"].split()
    value, steps = int(first), []
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        value = value + int(term) if operator == "+" else value - int(term)
        steps.append(f"{operator} {term} > {value}")
    return f"{first} {' ; '.join(steps)} ; so {value}"


def leg_counting_trace(metadata: dict[str, Any]) -> str:
    """Legs of each kind, then a running sum: ``cat 11 x 4 > 44 ; leech 8 x 0 > 0 ; then 44 + 0 > 44
    ; so 44``.
    """
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    parts = [(name, count, count * ANIMALS[name]) for name, count in metadata["animals"].items()]
    counted = " ; ".join(
        f"{name} {count} x {ANIMALS[name]} > {legs}" for name, count, legs in parts
    )
    total, sums = parts[0][2], [str(parts[0][2])]
    for _, _, legs in parts[1:]:
        total += legs
        sums.append(f"+ {legs} > {total}")
    return f"{counted} ; then {' '.join(sums)} ; so {total}"


@dataclass(frozen=True, slots=True)
class PuzzleTask:
    """How a reasoning-gym data set is used: the knob that sets difficulty, its thirds, and how its
    trace is derived.
    """

    trace: Callable[[dict[str, Any]], str]
    knob: str  # the generator takes min_<knob> and max_<knob>
    levels: dict[str, tuple[int, ...]]
    fixed: dict[str, Any]


TASKS: dict[str, PuzzleTask] = {
    "chain_sum": PuzzleTask(
        chain_sum_trace,
        "terms",
        {"easy": (2, 3), "mid": (4, 5), "hard": (6, 7)},
        {"min_digits": 2, "max_digits": 2},
    ),
    "leg_counting": PuzzleTask(
        leg_counting_trace, "animals", {"easy": (1, 2), "mid": (3, 4), "hard": (5, 6)}, {}
    ),
}


def check_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """`tasks`, or chain_sum if none is named. Raises ConfigError for one that has no trace, or
    without reasoning-gym.
    """
    for name in tasks:
        if name not in TASKS:
            raise ConfigError(
                "tasks", name, f"no honest trace can be made for it; use {', '.join(TASKS)}"
            )
    try:
        import_module("reasoning_gym")  # may be left out at installation, or what it needs
    except ImportError:
        fix = "needs a C compiler at installation; install one and run make env again"
        raise ConfigError("family", "reasoning_gym", fix) from None
    return tasks or ("chain_sum",)


def entry_of(task: str, level_value: int, seed: int) -> dict[str, Any]:
    """The reasoning-gym entry of `task` with its knob at `level_value`; `seed` alone decides
    which.
    """
    import reasoning_gym

    spec = TASKS[task]
    knobs = {f"min_{spec.knob}": level_value, f"max_{spec.knob}": level_value}
    entry: dict[str, Any] = reasoning_gym.create_dataset(
        task, size=1, seed=seed, **knobs, **spec.fixed
    )[0]
    return entry


@cache
def guess_rate(task: str, level: str) -> float:
    """Share of the most common answer at `level`: what the best blind answer scores."""
    rng = rng_of("reasoning_gym", task, level, "guess")
    values = TASKS[task].levels[level]
    return sampled_blind(
        entry_of(task, int(rng.choice(values)), int(rng.integers(2**62)))["answer"]
        for _ in range(GUESS_PROBE)
    )


def puzzle(
    tasks: tuple[str, ...], index: int, split: str, seed: int, weights: tuple[float, float, float]
) -> Sample:
    """Generate puzzle `index` of `split`. The tasks alternate by index; the random seed depends on
    task, split, seed and index only.
    """
    task = tasks[index % len(tasks)]
    rng = rng_of("reasoning_gym", task, split, seed, index)
    levels = TASKS[task].levels
    level = draw_level(rng, levels, weights)
    value, item_seed = int(rng.choice(levels[level])), int(rng.integers(2**62))
    entry = entry_of(task, value, item_seed)
    return make_sample(
        task,
        index,
        split,
        seed,
        question=entry["question"].strip(),
        answer=entry["answer"],
        trace=TASKS[task].trace(entry["metadata"]),
        verifier="reasoning_gym",
        verifier_args=json.dumps({"entry": entry}),
        guess_rate=guess_rate(task, level),
        level=level,
        difficulty=json.dumps({TASKS[task].knob: value}),
        source="reasoning-gym",
        source_refs=(f"reasoning_gym/{task}/{item_seed}",),
    )
