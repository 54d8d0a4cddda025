"""Fault drills: real damage to a live run at random times, to see it get over it (`bimode bpo ...
--chaos KIND`).

    kill-rollout      a rollout worker's process ends
    stall-rollout     a rollout worker stops answering; `bpo.worker_timeout_s` says when that counts
    corrupt-weights   a bit of the next weights changes on the way to a rollout worker
    slow-sync         a rollout worker does not get through its next weight update;
                      `bpo.sync_timeout_s` says when that counts
    kill-learner      a rank of the learner group ends
    kill-driver       this process is killed, as by the kernel; the same command goes on

Victims and waiting times come from `cluster.chaos_seed`. Learner and driver are hit once a start,
workers again and again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from bimode.config.recipe import Chaos, ClusterConfig
from bimode.errors import one_of
from bimode.storage.weights import WeightBucket
from pipelines.progress import log_line

if TYPE_CHECKING:
    from actors.rl_workers import RLWorkers

ONCE = ("kill-learner", "kill-driver")


def chaos_override(kind: str) -> str:
    """Return the override that `--chaos KIND` stands for. Raises ConfigError for an unknown
    kind.
    """
    known = [name for name in get_args(Chaos) if name]
    return f"cluster.chaos={one_of('--chaos', kind, known)}"


class FaultInjector:
    """Injects the faults of one run, also after the learner was restarted; does nothing without
    `cluster.chaos`.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        self.kind, self.every_s = cluster.chaos, cluster.chaos_every_s
        self.chance = random.Random(f"{cluster.chaos}/{cluster.chaos_seed}")

    @contextmanager
    def on(self, workers: RLWorkers) -> Iterator[None]:
        """Inject faults into `workers` while the block runs."""
        if not self.kind:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(workers, over), name="chaos", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _run(self, workers: RLWorkers, over: threading.Event) -> None:
        import ray

        while not over.wait(self.chance.expovariate(1 / self.every_s)):
            if self.kind not in ONCE:
                self._damage_worker(workers)
                continue
            log_line(f"chaos: {self.kind}")
            if self.kind == "kill-driver":
                os.kill(os.getpid(), signal.SIGKILL)
            ray.kill(self.chance.choice(workers.learner.ranks))
            return

    def _damage_worker(self, workers: RLWorkers) -> None:
        """Damage a worker that has loaded: from a fleet whose workers die faster than they load
        nothing could be learned.
        """
        import ray

        loaded = [worker for worker in workers.fleet.workers if worker.is_ready]
        if not loaded:
            return
        victim = self.chance.choice(loaded)
        if self.kind == "kill-rollout":
            ray.kill(victim.actor)
        else:
            victim.actor.__ray_call__.remote(
                {"stall-rollout": stall, "corrupt-weights": corrupt, "slow-sync": slow}[self.kind]
            )
        log_line(f"chaos: {self.kind} {victim.name}")


# ---- what is done inside of a rollout worker ----


def stall(worker: Any) -> None:
    """Make the worker hang."""
    threading.Event().wait()


def slow(worker: Any) -> None:
    """Make the worker hang at its next weight update."""
    worker.load = stall


def corrupt(worker: Any) -> None:
    """Flip a bit of the next weights that arrive."""

    def load(bucket: WeightBucket) -> WeightBucket:
        del worker.load  # once
        arrays = [array.copy() for array in bucket.arrays]
        arrays[0].reshape(-1).view("uint8")[0] ^= 1
        return replace(bucket, arrays=tuple(arrays))

    worker.load = load
