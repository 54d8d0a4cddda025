"""The same run as a Ray job; see `cluster.submit`.

python -m pipelines.submit pipelines/recipes/smoke.toml --out /shared/runs/smoke --address
http://127.0.0.1:8265
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from bimode.config.load import load_recipe
from bimode.config.recipe import Recipe, Stage
from bimode.config.traces import SELF
from bimode.errors import ConfigError, one_of
from bimode.models.prepare_model import NEW_TINY_LLAVA
from cluster.submit import Submission, is_uploaded, submit_and_follow

STAGES = ("run", *get_args(Stage))


def submit_run(
    recipe: Path, out: str, address: str, stage: str, overrides: tuple[str, ...], seed: int | None
) -> None:
    """Checks the recipe here, where a mistake costs nothing, then submits and follows. Raises
    JobFailed.
    """
    one_of("--stage", stage, STAGES)
    check_paths(load_recipe(recipe, overrides, seed), stage)
    flags = [word for override in overrides for word in ("--set", override)]
    flags += ["--seed", str(seed)] if seed is not None else []
    submit_and_follow(Submission(stage, recipe, out, tuple(flags)), address)


def check_paths(recipe: Recipe, stage: str) -> None:
    """A relative path means the uploaded code to a job. Raises ConfigError for one that is not in
    it.
    """
    for key, path in paths_of(recipe, recipe.stages if stage == "run" else (stage,)):
        if not (path.startswith("/") or "://" in path or is_uploaded(path)):
            fix = (
                "is relative, and not in the code that a job is given; write an absolute path that"
                " every node sees"
            )
            raise ConfigError(key, path, fix)


def paths_of(recipe: Recipe, stages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What `stages` read from outside of the run, by the key that names it."""
    curate = recipe.curate
    if recipe.model.base != NEW_TINY_LLAVA:
        yield "model.base", recipe.model.base
    if "curate" not in stages:
        return
    yield from (
        (f"curate.sources.{at}.path", source.path)
        for at, source in enumerate(curate.sources)
        if source.path
    )
    yield from (
        (f"curate.rollouts.models.{at}", model) for at, model in enumerate(curate.rollouts.models)
    )
    yield from ((f"curate.dedup.against.{at}", run) for at, run in enumerate(curate.dedup.against))
    named = {"judge": curate.judge.model, "traces": curate.traces.model}
    yield from (
        (f"curate.{key}.model", model) for key, model in named.items() if model not in ("", SELF)
    )


if __name__ == "__main__":
    from pipelines import main

    main("submit")
