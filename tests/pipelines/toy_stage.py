"""The command line with one more stage, `toy`, whose behavior the first argument chooses: what a
stage may do to us.

python tests/pipelines/toy_stage.py KIND RECIPE --out DIR
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from bimode.config.recipe import Recipe
from bimode.errors import StarvedError
from bimode.storage.run_dir import StageDir, StageResult

KIND = sys.argv[1]


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """`missing` wants a directory that nobody makes."""
    return {"data": run / "nowhere"} if KIND == "missing" else {}


def config(recipe: Recipe) -> Any:
    """The seed alone."""
    return {"seed": recipe.seed}


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Real Ray work, then whatever KIND says."""
    import ray

    (stage.path / "partial.txt").write_text("half")
    if KIND == "train":
        train(stage.path)
    result = ray.get(ray.remote(work).options(name="toy").remote(KIND, stage.path))
    (stage.path / "out.txt").write_text(result)
    return StageResult(outputs=("out.txt",), counts={"rows": 1})


def train(path: Path) -> None:
    """A training run that waits; `started` names a process of it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from actors.learner.annealer import run_to_end

    started = str(path / "started")
    run_to_end(
        TorchTrainer(
            lambda config: (Path(started).write_text(str(os.getpid())), time.sleep(600)),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(storage_path=str(path.absolute())),
        )
    )


def work(kind: str, path: Path) -> str:
    """Runs in a Ray worker."""
    if kind == "starved":
        raise StarvedError("no rows left")
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "sleep":
        child = subprocess.Popen(
            ["sleep", "600"], start_new_session=True
        )  # like an engine's own process
        (path / "started").write_text(str(child.pid))
        time.sleep(600)
    return "whole"


if __name__ == "__main__":
    module = ModuleType("pipelines.toy")
    module.inputs, module.config, module.execute = inputs, config, execute  # type: ignore[attr-defined]
    sys.modules["pipelines.toy"] = module
    from pipelines import __main__ as cli
    from pipelines.__main__ import NOTHING, Out, RecipePath, Seed, Set

    def toy(recipe: RecipePath, out: Out, set_: Set = NOTHING, seed: Seed = None) -> None:
        """The stage above."""
        cli.run_recipe(("toy",), recipe, out, set_, seed)

    cli.app.command()(toy)
    del sys.argv[1]
    cli.main("toy")
