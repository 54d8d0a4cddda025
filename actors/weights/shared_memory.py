"""Weights that workers read in the learner's memory: a learner on a CPU, and workers on its
machine.

Nothing is copied. The learner says where every bucket lies, the workers check it while they
generate, and the learner keeps its weights as they are until every worker is through with the
update, since vLLM loads a layer that it pads only at the very end. A worker that is still
generating after PATIENCE_S leaves the push and takes part in a later one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from actors.learner.group import ExportPlan, LearnerGroup
from actors.rollout.fleet import WorkerHandle
from actors.weights.object_store import BucketPush, ObjectStoreTransport
from bimode.errors import ConfigError

PATIENCE_S = 10.0


class SharedMemoryPush(BucketPush):
    """Buckets without bytes: each says where the weights lie."""

    is_shared = True

    def __init__(
        self,
        learner: LearnerGroup,
        plan: ExportPlan,
        version: int,
        workers: Iterable[WorkerHandle],
        deadline_s: float,
    ) -> None:
        super().__init__(learner, plan, version, workers, deadline_s)
        self.window, self.slice_wait_s = self.num_buckets, PATIENCE_S
        self._checks = defaultdict[WorkerHandle, list[Any]](list)

    @property
    def holds_learner(self) -> bool:
        return bool(self.workers)

    def exported(self, bucket: Any) -> None:
        for worker in self.workers:
            self._checks[worker].append(worker.actor.prefetch.remote(bucket))

    async def pause(self, worker: WorkerHandle) -> None:
        for check in self._checks.pop(worker, []):
            await worker.result(check, "prefetch")


class SharedMemoryTransport(ObjectStoreTransport):
    """Shared memory only; refused if the learner's memory cannot be read."""

    async def connect(self, workers: Sequence[WorkerHandle]) -> None:
        await super().connect(workers)
        assert self.plan is not None
        if not self.plan.shared_on:
            raise ConfigError(
                "bpo.sync",
                "shared_memory",
                "the learner's weights cannot be read in place (they are split, of another"
                " precision, on a GPU, or /dev/shm is full); use auto or object_store",
            )

    def push_class(self, plan: ExportPlan, workers: Sequence[WorkerHandle]) -> type[BucketPush]:
        return SharedMemoryPush


class CpuTransport(ObjectStoreTransport):
    """`bpo.sync = "auto"` without GPUs: shared memory for a push whose workers are all on the
    learner's machine, the object store for every other.
    """

    def push_class(self, plan: ExportPlan, workers: Sequence[WorkerHandle]) -> type[BucketPush]:
        machines = {worker.machine for worker in workers}
        is_shared = plan.shared_on != "" and machines == {plan.shared_on}
        return SharedMemoryPush if is_shared else BucketPush
