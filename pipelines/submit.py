"""The same run as a Ray job; see `cluster.submit`.

python -m pipelines.submit pipelines/recipes/smoke.toml --out /shared/runs/smoke --address http://127.0.0.1:8265
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from bimode.config import Stage
from bimode.errors import one_of
from bimode.recipe import load_recipe
from cluster.submit import Submission, submit_and_follow

STAGES = ("run", *get_args(Stage))


def submit_run(recipe: Path, out: str, address: str, stage: str, overrides: tuple[str, ...], seed: int | None) -> int:
    """Checks the recipe here, where a mistake costs nothing, then submits and follows; the job's exit code."""
    load_recipe(recipe, overrides, seed)
    one_of("--stage", stage, STAGES)
    flags = [word for override in overrides for word in ("--set", override)]
    flags += ["--seed", str(seed)] if seed is not None else []
    return submit_and_follow(Submission(stage, recipe, out, tuple(flags)), address)


if __name__ == "__main__":
    from pipelines.cli import main

    main("submit")
