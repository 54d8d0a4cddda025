"""Bi-mode annealing under Ray Train v2: what each worker does, and the one `fit` of the stage.

Consumes tokenized rows in a planned order (`actors.learner.sequences`, `actors.learner.feed`);
waits for the other ranks in every step; produces checkpoints, metrics.jsonl and a Hugging Face
directory.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.devices import on_gpu
from actors.learner.feed import PlannedFeed, Table
from actors.learner.learner import Learner, LearnerSpec, StepInfo
from actors.learner.sequences import read_sequences, to_samples
from bimode.config.recipe import AnnealConfig
from bimode.learner.strategies import formats_of, phase_of_steps, plan_steps
from bimode.rl.loss import sft_loss
from bimode.storage.checkpoints import checkpoint_path, latest, step_of
from bimode.storage.run_dir import own_file, write_atomic

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


@dataclass(frozen=True, slots=True)
class AnnealJob:
    """All that a worker needs; `out` is the stage's folder, which every worker can write to."""

    model_dir: Path
    out: Path
    config: AnnealConfig
    dtype: str
    seed: int

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.out / "metrics.jsonl"


def fit(
    job: AnnealJob, data: Path, worker_resources: dict[str, float], runtime_env: dict[str, Any]
) -> dict[str, Any]:
    """Train to the last step from the newest checkpoint; write ``OUT/model``; return counts.

    Each worker has `worker_resources` and Ray's `runtime_env`.

    Raises StarvedError if a phase of the strategy finds no rows, and what Ray Train raises if a
    worker fails.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    config = job.config
    rows = read_sequences(data, job.model_dir, config.mask_empty_think)
    table = Table(rows)
    plan_SB = plan_steps(
        table.rows,
        config.strategy,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=job.seed,
        order=config.order,
    )
    use_gpu = worker_resources.get("GPU", 0) > 0
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "feed": PlannedFeed(table, plan_SB)},
        scaling_config=ScalingConfig(
            num_workers=config.learner.workers,
            use_gpu=use_gpu,
            resources_per_worker=worker_resources,
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(job.checkpoints.absolute()),
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env=runtime_env,
        ),
    )
    run_to_end(trainer)
    counts = dict(sorted(Counter(row.format for row in table.rows).items()))
    return {"steps": config.steps, "sequences": config.steps * config.batch_size, "rows": counts}


def run_to_end(trainer: TorchTrainer) -> None:
    """Call `trainer.fit()` so that Ctrl-C is a KeyboardInterrupt, as elsewhere.

    Ray Train would answer it with a handler of its own, which ends the process without a word, and
    which it leaves behind.
    """
    trainer._register_sigint_handler = lambda controller: None
    trainer.fit()


def train_worker(config: dict[str, Any]) -> None:
    """Run the loop of one worker: batches of this rank's share in, one optimizer step each."""
    import ray.train

    job: AnnealJob = config["job"]
    feed: PlannedFeed = config["feed"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if on_gpu("cluster.learner_gpus"):
        torch.cuda.set_device(ray.train.torch.get_device())
    anneal = job.config
    learner = Learner(
        LearnerSpec(
            job.model_dir,
            anneal.learner,
            anneal.optim,
            total_steps=anneal.steps,
            dtype=job.dtype,
            seed=job.seed,
        )
    )
    if (last := latest(job.checkpoints)) is not None:
        learner.restore(last)
    log = MetricsLog(job) if rank == 0 else None
    for batch in feed.batches(rank, world, learner.step):
        sums, info = train_step(learner, batch, formats_of(anneal.strategy))
        if log:
            log.write(sums, info)
        if info.step % anneal.checkpoint_every == 0 or info.step == anneal.steps:
            learner.save(checkpoint_path(job.checkpoints, info.step))
    learner.save_model(job.out / "model")
    ray.train.report({"step": learner.step})


def train_step(
    learner: Learner, batch: Any, formats: tuple[str, ...]
) -> tuple[dict[str, float], StepInfo]:
    """Take one step on this rank's `batch`; return the sums over all ranks."""
    from actors.learner import distributed

    samples = to_samples(batch)
    [num_tokens] = distributed.all_sum([sum(sum(s.loss_mask_T) for s in samples)])
    sums = learner.forward_backward(
        samples, sft_loss, num_tokens=num_tokens, labels=batch["format"].to_pylist()
    )
    info = learner.optim_step()
    keys = ["loss", "tokens", *(f"{kind}/{name}" for name in formats for kind in ("nll", "tokens"))]
    return (
        dict(zip(keys, distributed.all_sum([sums.get(key, 0.0) for key in keys]), strict=True)),
        info,
    )


def resume_log(job: AnnealJob) -> int:
    """Return the step to resume from; lines of metrics.jsonl after it are removed."""
    done = latest(job.checkpoints)
    step = step_of(done) if done else 0
    lines = job.metrics.read_text().splitlines() if job.metrics.is_file() else []
    write_atomic(job.metrics, "".join(f"{line}\n" for line in lines[:step]))
    return step


class MetricsLog:
    """Writes metrics.jsonl: one line a step, after those that `resume_log` kept."""

    def __init__(self, job: AnnealJob) -> None:
        self.path = job.metrics
        self.phases = phase_of_steps(job.config.strategy, job.config.steps)
        self.at = time.monotonic()

    def write(self, sums: dict[str, float], info: StepInfo) -> None:
        """Write one step; `tokens_per_s` counts loss tokens over all ranks."""
        now = time.monotonic()
        line = {
            "step": info.step,
            "loss": sums["loss"],
            "lr": info.lr,
            "grad_norm": info.grad_norm,
            "phase": self.phases[info.step - 1],
            "loss_by_format": {
                key.removeprefix("tokens/"): sums[key.replace("tokens/", "nll/")] / amount
                for key, amount in sums.items()
                if key.startswith("tokens/") and amount > 0
            },
            "tokens": sums["tokens"],
            "tokens_per_s": round(sums["tokens"] / max(now - self.at, 1e-9), 1),
        }
        self.at = now
        with open(self.path, "a", opener=own_file) as file:
            file.write(json.dumps(line) + "\n")
