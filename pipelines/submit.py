"""`bimode submit`: the same run as a Ray job (`cluster.submit`)."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from bimode.config.recipe import Recipe, Stage
from bimode.config.traces import SELF
from bimode.errors import ConfigError, one_of
from bimode.models.prepare_model import NEW_TINY_LLAVA
from cluster.submit import Submission, is_uploaded, submit_and_follow

STAGES = ("run", *get_args(Stage))


def submit_run(
    recipe: Path, out: str, address: str, stage: str, overrides: tuple[str, ...], seed: int | None
) -> None:
    """Check the recipe before anything is submitted, then submit the run and follow it.

    Raises ConfigError for a mistake, JobFailed unless the job succeeded.
    """
    one_of("--stage", stage, STAGES)
    check_paths(Recipe.load(recipe, overrides, seed), stage)
    flags = [word for override in overrides for word in ("--set", override)]
    if seed is not None:
        flags += ["--seed", str(seed)]
    submit_and_follow(Submission(stage, recipe, out, tuple(flags)), address)


def check_paths(recipe: Recipe, stage: str) -> None:
    """Raise ConfigError for a relative path outside of the uploaded code, which no node sees."""
    stages = recipe.stages if stage == "run" else (stage,)
    for key, path in _input_paths(recipe, stages).items():
        if not (path.startswith("/") or "://" in path or is_uploaded(path)):
            where = "is relative, and not in the code that a job is given"
            raise ConfigError(key, path, f"{where}; write an absolute path that every node sees")


def _input_paths(recipe: Recipe, stages: tuple[str, ...]) -> dict[str, str]:
    """The paths outside of the run that `stages` read, by the key that names each."""
    curate = recipe.curate
    paths = {"model.base": recipe.model.base}
    if "curate" in stages:
        lists = {
            "curate.rollouts.models": curate.rollouts.models,
            "curate.dedup.against": curate.dedup.against,
        }
        for at, source in enumerate(curate.sources):
            paths[f"curate.sources.{at}.path"] = source.path
        for key, values in lists.items():
            paths |= {f"{key}.{at}": value for at, value in enumerate(values)}
        paths["curate.judge.model"] = curate.judge.model
        paths["curate.traces.model"] = curate.traces.model
    return {key: path for key, path in paths.items() if path not in ("", SELF, NEW_TINY_LLAVA)}


if __name__ == "__main__":
    from pipelines import main

    main("submit")
