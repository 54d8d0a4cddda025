"""Bi-mode Policy Optimization (R-4B, section 3.1): every prompt is answered in both modes, until
the model chooses well.

One loop: a batch of scored groups -> credit -> update -> weights to the rollout workers, which
generate the next groups (`actors.rollout.loop`). The algorithm is `bpo.algorithm`
(docs/algorithms.md); the learner gets tensors and a loss and never learns its name. The ledger
records the state of every group, and is sealed with each checkpoint.

    python -m pipelines.bpo pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.errors import LearnerLostError, WorkerLostError, config_errors
from bimode.rl.transports import can_join
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
    """Return the annealed model (the base, if the recipe has no annealing) and the curated
    prompts.
    """
    from pipelines.harness import base_model

    model = run / "anneal" / "model" if "anneal" in recipe.stages else base_model(recipe, run)
    return {"model": model, "data": run / "curate" / "data"}


def config(recipe: Recipe) -> Any:
    """Return the settings that the policy depends on. Timeouts and the number of checkpoints are
    not among them.
    """
    return {
        "bpo": recipe.bpo.model_dump(mode="json", exclude=NOT_PART_OF_CACHE_KEY),
        "plugins": recipe.bpo.plugins | recipe.curate.verifier_digests,
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
    }


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """Raise ConfigError if the curated data has no `rl` prompts or lacks a prompt column."""
    from bimode.storage.dataset import PROMPT_COLUMNS, check_split

    with config_errors("--out"):
        check_split(inputs["data"], "rl", PROMPT_COLUMNS)


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Train; restart from the last sealed checkpoint when the learner dies, at most
    `bpo.learner_restarts` times.

    With `nccl` and `ipc` also when a rollout worker dies: the group that carries weights is formed
    once, so no other worker can take its place.
    """
    from pipelines.bpo_steps import reserve_learner
    from pipelines.chaos import FaultInjector
    from pipelines.progress import log_line
    from pipelines.scale import forget

    drill = FaultInjector(recipe.cluster)
    joins = can_join(recipe.transport)
    lost = (LearnerLostError,) if joins else (LearnerLostError, WorkerLostError)
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
    """Train from the last sealed checkpoint. `room` holds the learner's ray.remote options."""
    from bimode.inputs.prompt_limits import read_prompts
    from bimode.rl.ledger import Ledger
    from bimode.rl.loss import importance_of, policy_loss
    from bimode.rl.rollout_task import RolloutTask
    from pipelines import bpo_steps
    from pipelines.bpo_log import RunLog
    from pipelines.bpo_reference import reference_rewards
    from pipelines.bpo_steps import credit, open_rollouts, open_workers, update
    from pipelines.progress import track
    from pipelines.scale import WorkerTarget

    bpo = recipe.bpo
    limit = bpo.mismatch_limit(recipe.model.dtype)
    log = RunLog(stage.path, lambda step: bpo.at(step).margin, limit)
    ledger = Ledger(stage.path / "ledger")
    prompts = read_prompts(inputs["data"], "rl", recipe.curate.verifiers)
    loss = policy_loss(bpo.clip_low, bpo.clip_high, bpo.kl, importance_of(bpo))
    target = WorkerTarget(stage.path, bpo, partial(bpo_steps.rollout_room, recipe))
    with (
        open_workers(recipe, inputs["model"], room) as workers,
        track("bpo", total=bpo.steps, unit="step") as bar,
    ):
        references = reference_rewards(workers, prompts, recipe, stage.path)  # of the first policy
        start = log.resume(workers, ledger)
        bar.kept(start)
        task = RolloutTask(prompts, bpo, recipe.seed, references)
        compared = 0  # steps in which the engine was compared with the learner
        with (
            open_rollouts(workers, task, ledger, stage.path) as rollouts,
            target.follow(rollouts),
            drill.on(workers),
        ):
            for step in range(start, bpo.steps):
                if bpo.rollout_tokens and log.tokens >= bpo.rollout_tokens:
                    break
                workers.weights.push(step)
                scored = rollouts.batch(step)
                credited = credit([d.group for d in scored], bpo.at(step), recipe.seed + step)
                learned = update(workers, credited, loss, limit if compared < 2 else math.inf)
                compared += "mismatch" in learned
                stats = rollouts.mark_trained(scored, step)
                bar.advance(1, log.step(step, scored, learned | asdict(stats)))
                target.record_step(stats.waits)
                if (step + 1) % bpo.checkpoint_every == 0:
                    log.checkpoint(workers, ledger)
        log.checkpoint(workers, ledger)
        bpo_steps.log_advice(recipe, workers, rollouts)
        workers.learner.save_model(stage.path / "model")
    counts = log.counts() | ledger.totals.counts()
    return StageResult(outputs=("model", "metrics.jsonl", "ledger"), counts=counts)


if __name__ == "__main__":
    from pipelines import main

    main("bpo")
