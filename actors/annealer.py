"""Bi-mode supervised annealing under Ray Train: each worker is one rank of the same `Learner` that BPO uses.

Every worker reads the whole tokenised data set through its Ray Data shard once (rows are small; images stay encoded), then
takes its slice of each planned batch: a pure function of (seed, step), so a resumed run sees the rows it would have seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import parallel
from bimode.checkpoints import checkpoint_path, latest, step_of
from bimode.config import AnnealConfig
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.strategies import plan_steps

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class AnnealJob:
    """What a worker is told."""

    model_dir: Path
    out: Path
    config: AnnealConfig
    dtype: str
    seed: int


def fit(job: AnnealJob, rows: Any, *, resources: dict[str, float], use_gpu: bool, storage: Path) -> None:
    """Trains on `rows` (a Ray Dataset of tokenised rows) until `job.out` holds `model`. Raises what a worker raised."""
    from ray.train import DataConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.config.learner.workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(name="anneal", storage_path=str(storage)),
        datasets={"train": rows},
        dataset_config=DataConfig(datasets_to_split=[]),
    ).fit()


def train_worker(config: dict[str, AnnealJob]) -> None:
    """One rank's loop: resume, then for each step take the slice of the batch, update, log, checkpoint."""
    from ray import train

    from actors.learner import Learner
    from bimode.losses import sft_loss

    job = config["job"]
    anneal = job.config
    samples, labels = read_shard(train.get_dataset_shard("train"))
    plan = plan_steps(labels, anneal.strategy, steps=anneal.steps, batch_size=anneal.batch_size, seed=job.seed)
    learner = Learner(
        job.model_dir, anneal.learner, anneal.optim, total_steps=anneal.steps, dtype=job.dtype, seed=job.seed,
        with_reference=False,
    )  # fmt: skip
    checkpoints = job.out / "checkpoints"
    if (last := latest(checkpoints)) is not None:
        learner.restore(last)
    log = StepLog(job.out / "metrics.jsonl", start=learner.step) if parallel.rank() == 0 else None
    for step in range(learner.step, anneal.steps):
        batch = [int(i) for i in plan[step]]
        mine = batch[parallel.rank() :: parallel.world()]
        num_tokens = sum(sum(samples[i].loss_mask_T) for i in batch)
        sums = learner.forward_backward(
            [samples[i] for i in mine], sft_loss, num_tokens=num_tokens, labels=[labels[i] for i in mine]
        )
        info = learner.optim_step()
        if log is not None:
            log.write(info.step, sums, info.lr, info.grad_norm, len(batch))
        if info.step % anneal.checkpoint_every == 0 and info.step < anneal.steps:
            learner.save(checkpoint_path(checkpoints, info.step))
    learner.save_model(job.out / "model")
    parallel.barrier()


def read_shard(shard: Any) -> tuple[list[TrainingSample], list[str]]:
    """All tokenised rows ordered by (id, format), as samples with their formats."""
    rows = sorted(shard.iter_rows(), key=lambda row: (row["id"], row["format"]))
    return [to_sample(row) for row in rows], [row["format"] for row in rows]


def to_sample(row: dict[str, Any]) -> TrainingSample:
    """A tokenised row as the learner takes it: weight 1 on every response token that is not masked."""
    ids = tuple(int(i) for i in row["response_ids"])
    return TrainingSample(
        prompt_ids=tuple(int(i) for i in row["prompt_ids"]), token_ids_T=ids,
        loss_mask_T=tuple(float(w) for w in row["loss_mask"]), advantages_T=(1.0,) * len(ids),
        behavior_logprobs_T=(NAN,) * len(ids), images=tuple(bytes(b) for b in row["pictures"]),
        mode=Mode.THINKING if row["format"] == "thinking" else Mode.NON_THINKING, origin=row["id"], version=0,
    )  # fmt: skip


class StepLog:
    """metrics.jsonl of the annealing, written by rank 0: one line a step; lines after the resumed step are dropped."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        kept = path.read_text().splitlines()[:start] if path.is_file() else []
        path.write_text("".join(f"{line}\n" for line in kept))
        self.last = time.monotonic()

    def write(self, step: int, sums: dict[str, float], lr: float, grad_norm: float, sequences: int) -> None:
        """Appends one step; losses are those of rank 0's share of the batch."""
        now = time.monotonic()
        line: dict[str, Any] = {"step": step, "lr": lr, "grad_norm": grad_norm, "seconds": round(now - self.last, 4)}
        line |= {"loss": sums["nll"] / max(sums["tokens"], 1.0), "sequences_per_s": round(sequences / (now - self.last), 1)}
        for key in sums:
            if key.startswith("nll/"):
                label = key.removeprefix("nll/")
                line[f"loss/{label}"] = sums[key] / max(sums[f"tokens/{label}"], 1.0)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.last = now


def follow(out: Path, advance: Callable[[int, str], None], done: Callable[[], bool]) -> None:
    """Reports steps of `out`/metrics.jsonl as they are written, until `done`."""
    path, seen = out / "metrics.jsonl", 0
    while True:
        finished = done()
        lines = path.read_text().splitlines() if path.is_file() else []
        if len(lines) > seen:
            advance(len(lines) - seen, f"loss {json.loads(lines[-1])['loss']:.3f}")
            seen = len(lines)
        if finished:
            return
        time.sleep(1.0)


def resumed_step(out: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    last = latest(out / "checkpoints")
    return step_of(last) if last else 0
