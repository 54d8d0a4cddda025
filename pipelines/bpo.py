"""Bi-mode Policy Optimization (R-4B, section 3.1): every query is answered in both modes, until the
model chooses well.

One loop: a batch of rewarded groups -> credit -> update -> weights to the workers, who draw the
next ones (`actors.rollout.loop`). The algorithm is `bpo.algorithm` (docs/algorithms.md); the
learner is handed tensors and a loss and never learns its name. Where every question has gone stands
in the ledger, which is sealed with each checkpoint.

    python -m pipelines.bpo pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.errors import LearnerLostError, WorkerLostError, config_errors
from bimode.storage.run_dir import StageDir, StageResult

if TYPE_CHECKING:
    from pipelines.chaos import FaultInjector

NOT_PART_OF_CACHE_KEY = {
    "worker_timeout_s",
    "sync_timeout_s",
    "learner_restarts",
    "rollout_workers_max",
    "checkpoint_every",
    "max_mismatch",
}


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The annealed model (the base, where the recipe has no annealing) and the curated prompts."""
    from pipelines.harness import base_model

    model = run / "anneal" / "model" if "anneal" in recipe.stages else base_model(recipe, run)
    return {"model": model, "data": run / "curate" / "data"}


def config(recipe: Recipe) -> Any:
    """What the policy depends on; how long anybody is waited for, or how often it is saved, is not
    among it.
    """
    return {
        "bpo": recipe.bpo.model_dump(mode="json", exclude=NOT_PART_OF_CACHE_KEY),
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
    }


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """There are prompts to draw. Raises ConfigError."""
    from bimode.storage.dataset import PROMPT_COLUMNS, check_split

    with config_errors("--out"):
        check_split(inputs["data"], "rl", PROMPT_COLUMNS)


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Trains; starts again from the last sealed checkpoint when the learner dies.

    With `nccl` and `ipc` also when a rollout worker dies: the group that carries weights is formed
    once, so no other worker can take its place. At most `bpo.learner_restarts` times.
    """
    from pipelines.bpo_steps import reserve_learner
    from pipelines.chaos import FaultInjector
    from pipelines.progress import log_line
    from pipelines.scale import forget

    drill = FaultInjector(recipe.cluster)
    is_fixed = recipe.bpo.sync != "object_store"
    lost = (LearnerLostError, WorkerLostError) if is_fixed else (LearnerLostError,)
    with reserve_learner(recipe) as room:
        for restarts_left in reversed(range(recipe.bpo.learner_restarts + 1)):
            try:
                result = train(recipe, stage, inputs, drill, room)
            except lost as error:
                if not restarts_left:
                    raise
                log_line(
                    f"bpo: {error}; starting again from the last sealed checkpoint"
                    f" ({restarts_left - 1} restarts left)"
                )
            else:
                forget(stage.path)
                return result
    raise AssertionError("the last attempt returns or raises")


def train(
    recipe: Recipe,
    stage: StageDir,
    inputs: dict[str, Path],
    drill: FaultInjector,
    room: dict[str, Any],
) -> StageResult:
    """Trains for `bpo.steps` or `bpo.rollout_tokens`, the learner group in its `room`, from the
    last sealed checkpoint on.
    """
    from bimode.inputs.prompts import read_prompts
    from bimode.rl.importance import importance_of
    from bimode.rl.ledger import Ledger
    from bimode.rl.loss import policy_loss
    from pipelines.bpo_log import RunLog
    from pipelines.bpo_reference import reference_rewards
    from pipelines.bpo_steps import credit, open_graph, open_rollouts, rollout_room, update
    from pipelines.progress import counted, log_line, track

    bpo = recipe.bpo
    limit = bpo.mismatch_limit(recipe.model.dtype)
    log = RunLog(stage.path, lambda step: bpo.at(step).margin, limit)
    ledger = Ledger(stage.path / "ledger")
    prompts = read_prompts(inputs["data"], "rl")
    loss = policy_loss(bpo.clip_low, bpo.clip_high, bpo.kl, importance_of(bpo))
    log_line(f"bpo: loading {counted(bpo.rollout_workers, 'rollout worker')} and the learner")
    with (
        open_graph(recipe, inputs["model"], room) as graph,
        track("bpo", total=bpo.steps, unit="step") as bar,
    ):
        references = reference_rewards(
            graph, prompts, recipe, stage.path
        )  # before a checkpoint replaces the policy
        start = log.resume(graph, ledger)
        bar.kept(start)
        # steps in which engine and learner were; not every one has tokens of the live version
        compared = 0
        with (
            open_rollouts(recipe, graph, prompts, references, ledger, stage.path) as rollouts,
            drill.on(graph),
        ):
            for step in range(start, bpo.steps):
                if bpo.rollout_tokens and log.tokens >= bpo.rollout_tokens:
                    break
                scored = rollouts.batch(step)
                credited = credit([d.group for d in scored], bpo.at(step), recipe.seed + step)
                learnt = update(graph, credited, loss, limit if compared < 2 else math.inf)
                compared += "mismatch" in learnt
                ended = rollouts.mark_trained(scored, step)
                graph.publish(step + 1)
                bar.advance(1, log.step(step, scored, learnt | asdict(ended)))
                if (step + 1) % bpo.checkpoint_every == 0:
                    log.checkpoint(graph, ledger)
        log.checkpoint(graph, ledger)
        if rollouts.total.total:
            workers, most = len(graph.fleet.workers), rollout_room(recipe)
            log_line(f"bpo: {rollouts.total.advice(workers, bpo.max_staleness, most, bpo.sync)}")
        graph.learner.save_model(stage.path / "model")
    return StageResult(
        outputs=("model", "metrics.jsonl", "ledger"), counts=log.counts() | ledger.totals.counts()
    )


if __name__ == "__main__":
    from pipelines.cli import main

    main("bpo")
