"""The building blocks of `pipelines.bpo`: start workers and rollout loop, compute credit,
update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.config.rl import BpoConfig
from bimode.errors import MismatchError
from bimode.records import RolloutGroup
from bimode.rl.credit import CreditedBatch, assign, merge_duplicates, shaped, shuffle_rewards
from bimode.rl.ledger import Ledger
from bimode.rl.loss import LossFn
from bimode.rl.metrics import means_by_mode, metric_means
from bimode.rl.rollout_task import RolloutTask
from bimode.rl.scheduler import RolloutScheduler
from bimode.rl.timeline import Trace
from pipelines.progress import counted, log_line

if TYPE_CHECKING:
    from actors.rl_workers import RLWorkers
    from actors.rollout.loop import Rollouts


def reserve_learner(recipe: Recipe) -> AbstractContextManager[dict[str, Any]]:
    """Reserve resources for the learner group, over all of its restarts; gives the ray.remote
    options of a rank.
    """
    from cluster.placement import plan, reserved

    _, learner = plan("bpo", recipe)
    return reserved(learner, lambda line: log_line(f"bpo: {line}"))


def rollout_room(recipe: Recipe) -> int:
    """Return how many rollout workers the cluster has room for now."""
    from cluster.placement import most_rollouts, node_resources

    return most_rollouts(recipe, node_resources())


def open_workers(recipe: Recipe, model_dir: Path, learner_options: dict[str, Any]) -> RLWorkers:
    """Start the rollout workers where the recipe places them, and the learner group in its reserved
    room (`reserve_learner`).
    """
    from actors.learner.learner import LearnerSpec
    from actors.rl_workers import start_workers
    from cluster.placement import plan

    bpo = recipe.bpo
    log_line(f"bpo: loading {counted(bpo.rollout_workers, 'rollout worker')} and the learner")
    rollout, _ = plan("bpo", recipe)
    learner = LearnerSpec(
        model_dir,
        bpo.learner,
        bpo.optim,
        total_steps=bpo.steps,
        dtype=recipe.model.dtype,
        seed=recipe.seed,
        with_reference=bpo.kl > 0,
    )
    return start_workers(
        recipe.model,
        learner,
        rollout_workers=bpo.rollout_workers,
        rollout_options=rollout.options(),
        learner_options=learner_options,
        sync=recipe.transport,
        worker_timeout_s=bpo.worker_timeout_s,
        sync_timeout_s=bpo.sync_timeout_s,
    )


def open_rollouts(workers: RLWorkers, task: RolloutTask, ledger: Ledger, stage: Path) -> Rollouts:
    """Start the rollout loop of a run; its timeline is written into the stage's folder `stage`."""
    from actors.rollout.loop import Rollouts

    return Rollouts(
        workers.fleet,
        workers.weights,
        open_scheduler(task, ledger),
        task,
        workers.loop,
        on_event=lambda line: log_line(f"bpo: {line}"),
        trace=Trace(stage / "trace.json"),
    )


def log_advice(recipe: Recipe, workers: RLWorkers, rollouts: Rollouts) -> None:
    """Log who waited for whom, and what would help."""
    if rollouts.total.total:
        count, most = len(workers.fleet.workers), rollout_room(recipe)
        bpo = recipe.bpo
        log_line(f"bpo: {rollouts.total.advice(count, bpo.max_staleness, most, bpo.sync)}")


def open_scheduler(task: RolloutTask, ledger: Ledger) -> RolloutScheduler:
    """Make the scheduler that the recipe describes."""
    bpo = task.bpo
    return RolloutScheduler(
        ledger,
        task.prompt,
        task.has_credit,
        num_prompts=task.num_prompts,
        groups_per_step=bpo.prompts_per_step,
        lease_groups=bpo.lease_groups,
        max_staleness=bpo.max_staleness,
        may_filter=bpo.resample * bpo.prompts_per_step,
        leases_in_flight=bpo.leases_in_flight,
    )


def credit(groups: Sequence[RolloutGroup], bpo: BpoConfig, seed: int) -> CreditedBatch:
    """Return the samples of one update, with equal ones merged. Rewards are shaped as the recipe
    says and, in the control experiment, shuffled.
    """
    rewarded = [shaped(group, bpo) for group in groups]
    batch = assign(shuffle_rewards(rewarded, seed) if bpo.shuffle_rewards else rewarded, bpo)
    return replace(batch, samples=tuple(merge_duplicates(batch.samples)))


def update(
    workers: RLWorkers, batch: CreditedBatch, loss: LossFn, max_mismatch: float = math.inf
) -> dict[str, Any]:
    """Take one optimizer step on `batch`. Returns metrics averaged over tokens, with loss,
    grad_norm and lr.

    Raises MismatchError, and moves nothing, if engine and learner differ by more than
    `max_mismatch` (k3, nats a token).
    """
    sums = workers.learner.update(batch.samples, loss, num_tokens=batch.denominator)
    mismatch = metric_means(sums).get("mismatch", 0.0)
    if (
        mismatch > max_mismatch
    ):  # not a number is a loss that is none either: `optim_step` refuses it
        raise MismatchError(
            "the engine gives its own tokens other log-probabilities than the learner:"
            f" {mismatch:.2g} nats (k3) a token, bpo.max_mismatch is {max_mismatch:g} (k3 estimates"
            " the KL divergence between them). The model is computed wrongly on one side, or a"
            " weight update is incomplete"
        )
    info = workers.learner.optim_step()
    step = {"loss": sums.get("loss", 0.0), "grad_norm": info.grad_norm, "lr": info.lr}
    return metric_means(sums) | step | {"learner": means_by_mode(sums)}
