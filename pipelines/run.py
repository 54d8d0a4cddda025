"""All stages of a recipe in order; a stage whose inputs and config are unchanged is skipped.

python -m pipelines.run pipelines/recipes/smoke.toml --out /abs/dir
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bimode.config.recipe import Recipe


def run(recipe: Recipe, out: str | Path, stages: Sequence[str] = ()) -> Path:
    """Run `stages` of `recipe`, by default its own, and return the run directory.

    The twin of `bimode run` in Python. Raises BimodeError with one line for the user.
    """
    from cluster.session import output_directory
    from pipelines.harness import run_stages

    folder = output_directory(str(out))
    run_stages(tuple(stages) or recipe.stages, recipe, folder)
    return folder


if __name__ == "__main__":
    from pipelines import main

    main("run")
