"""The arguments of verifiers: their names, types and bounds.

One place for curation, for rows of a data folder and for the verifiers themselves. What is not
named here is refused by its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from bimode.errors import ConfigError
from bimode.plugins import is_plugin

PUZZLES = (
    "chain_sum",
    "leg_counting",
)  # of reasoning-gym; its other scorers evaluate what a row says
MAX_ARGS = 20_000  # characters of JSON; an entry of a puzzle has about 1,000
MAX_ANSWER = 2000
MAX_ABS_TOL = 1e12
MAX_SHOWN = 60

Problem = Callable[[Any], str]  # what is wrong with a value, "" if nothing


def read_arguments(verifier: str, text: str) -> Mapping[str, Any]:
    """Parse the `verifier_args` of a row, e.g. ``{"rel_tol": 0.05}`` for `number`.

    Raises ConfigError unless they are a JSON object with the arguments of `verifier`.
    """
    args = _json_object(text)
    if args is None:
        fix = f"is not a JSON object of at most {MAX_ARGS} characters"
        raise ConfigError("verifier_args", _shown(text), fix)
    if is_plugin(verifier):
        return args  # its own code takes them, or fails with its name
    schema = ARGUMENTS[verifier]
    for name in args:
        if name not in schema:
            takes = ", ".join(schema) or "none"
            fix = f"is no argument of {verifier}, which takes {takes}"
            raise ConfigError("verifier_args", _shown(name), fix)
    for name in args.keys() | REQUIRED.get(verifier, ()):
        if problem := schema[name](args.get(name)):
            raise ConfigError("verifier_args", name, problem)
    return args


def _json_object(text: str) -> dict[str, Any] | None:
    if len(text) > MAX_ARGS:
        return None
    try:
        args = json.loads(text)
    except (ValueError, RecursionError):  # a number of 5000 digits, a list in a list in a list ...
        return None
    return args if isinstance(args, dict) else None


def _tolerance(most: float) -> Problem:
    def problem(value: Any) -> str:
        is_number = type(value) in (int, float) and math.isfinite(value)
        return "" if is_number and 0 <= value <= most else f"must be a number from 0 to {most:g}"

    return problem


def _entry_problem(entry: Any) -> str:
    """What the scorers of `PUZZLES` cannot read; a scorer that is not one of them may run code."""
    metadata = entry.get("metadata") if isinstance(entry, dict) else None
    task = metadata.get("source_dataset") if isinstance(metadata, dict) else None
    if task not in PUZZLES:
        named = _shown(task) if isinstance(task, str) else type(task).__name__
        return (
            f"reasoning_gym scores {' and '.join(PUZZLES)} and no puzzle called {named}, "
            "whose scorer may run what a row says"
        )
    answer = entry.get("answer")
    if not isinstance(answer, str) or len(answer) > MAX_ANSWER:
        return f"its answer must be a text of at most {MAX_ANSWER} characters"
    return ""


def _shown(text: str) -> str:
    return ascii(text[:MAX_SHOWN])[1:-1]


ARGUMENTS: dict[str, dict[str, Problem]] = {
    "exact": {},
    "int": {},
    "number": {"abs_tol": _tolerance(MAX_ABS_TOL), "rel_tol": _tolerance(1)},
    "choice": {},
    "math": {},
    "reasoning_gym": {"entry": _entry_problem},
    "open": {},
}  # by verifier and name
REQUIRED = {"reasoning_gym": ("entry",)}
