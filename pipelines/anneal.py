"""Bi-mode annealing (R-4B, section 2): supervised training on both formats, so that one model can
answer either way.

Curated rows -> Ray Data -> Ray Train workers with DeepSpeed -> a Hugging Face directory. Which
formats are read when is `anneal.strategy` (R-4B, Table 3; `bimode.learner.strategies`). An
interrupted run goes on from its last checkpoint.

    python -m pipelines.anneal pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bimode.config.recipe import Recipe
from bimode.errors import config_errors
from bimode.storage.run_dir import StageDir, StageResult, whole_lines

POLL_S = 1.0


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """Return the base model and the curated rows."""
    from pipelines.harness import base_model

    return {"model": base_model(recipe, run), "data": run / "curate" / "data"}


def config(recipe: Recipe) -> Any:
    """Return the settings that the annealed model depends on."""
    return {
        "anneal": recipe.anneal.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
    }


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """Raise ConfigError if there are no rows to train on."""
    from bimode.storage.dataset import TRAIN_COLUMNS, check_split

    with config_errors("--out"):
        check_split(inputs["data"], "train", TRAIN_COLUMNS)


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Train under Ray Train, from the newest checkpoint if there is one."""
    from actors.learner.annealer import AnnealJob, fit, resume_log
    from cluster.placement import plan
    from pipelines.progress import counted, log_line

    [role] = plan("anneal", recipe)
    job = AnnealJob(
        inputs["model"].absolute(),
        stage.path.absolute(),
        recipe.anneal,
        recipe.model.dtype,
        recipe.seed,
    )
    log_line(
        f"anneal: starting {counted(recipe.anneal.learner.workers, 'worker')} with the model and"
        " the data"
    )
    with followed(job.metrics, recipe.anneal.steps, resume_log(job)):
        counts = fit(job, inputs["data"], role.needs, role.runtime_env)
    return StageResult(outputs=("model", "metrics.jsonl"), counts=counts)


@contextmanager
def followed(metrics: Path, steps: int, start: int = 0) -> Iterator[None]:
    """Show the lines that the workers append to `metrics` as progress while the block runs; the
    first `start` lines are from before.
    """
    from pipelines.progress import track

    done = threading.Event()
    with track("anneal", total=steps, unit="step") as bar:

        def follow() -> None:
            shown, finished = start, False
            while not finished:
                finished = done.wait(POLL_S)
                lines = whole_lines(metrics)
                if len(lines) > shown:
                    last = json.loads(lines[-1])
                    bar.advance(
                        len(lines) - shown,
                        f"loss {last['loss']:.3f}, {last['tokens_per_s']:.0f} tokens/s",
                    )
                    shown = len(lines)

        bar.kept(start)
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


if __name__ == "__main__":
    from pipelines import main

    main("anneal")
