"""Weights by Ray's object store: bucket after bucket, any worker on any node, any time.

The learner puts a bucket into the store at most WINDOW ahead of the worker that is furthest, and a
bucket is freed once every worker has it: a big model needs no second copy in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from actors.event_loop import Signal
from actors.learner.group import Export, ExportPlan, LearnerGroup
from actors.rollout.fleet import WorkerHandle
from actors.weights.transport import WeightPush
from bimode.errors import LearnerLostError
from bimode.storage.weights import WINDOW

AT_ONCE = 8  # buckets of one call


class BucketPush(WeightPush):
    """One version as `plan.num_buckets` buckets. `window` bounds the buckets that have left the
    learner and are not yet with any worker.
    """

    is_shared = False
    window = WINDOW

    def __init__(
        self,
        learner: LearnerGroup,
        plan: ExportPlan,
        version: int,
        workers: Iterable[WorkerHandle],
        deadline_s: float,
    ) -> None:
        super().__init__(version, workers)
        self.learner, self.num_buckets, self.deadline_s = learner, plan.num_buckets, deadline_s
        self.buckets: list[Any] = []  # references; None once every worker has it
        self.checksums: list[int] = []
        self._loaded = dict.fromkeys(self.workers, 0)
        self._moved = Signal()

    @property
    def is_exported(self) -> bool:
        """Whether every bucket has left the learner."""
        return len(self.checksums) == self.num_buckets

    @property
    def holds_learner(self) -> bool:
        return bool(self.workers) and not self.is_exported

    async def prepare(self) -> None:
        exports = deque[Export]()
        asked = 0
        while self.workers and not self.is_exported:
            furthest = max(self._loaded.values())
            while asked < min(furthest + self.window, self.num_buckets):
                exports.append(self.learner.export(self.version, asked, self.is_shared))
                asked += 1
            if not exports:
                await self._moved.wait()
                continue
            export = exports.popleft()
            self.checksums.append(await self._checksum(export))
            self.buckets.append(export.bucket)
            self.exported(export.bucket)
            if self.is_exported or len(self.buckets) >= self.window:
                self.set_prepared()
            self._moved.give()

    async def _checksum(self, export: Export) -> int:
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self.learner.checksum(export)
        except TimeoutError:
            raise LearnerLostError(
                f"the learner: phase prepare of version {self.version} is not over after"
                f" {self.deadline_s:.0f} s"
            ) from None

    def exported(self, bucket: Any) -> None:
        """Record that a bucket has left the learner."""

    async def transfer(self, worker: WorkerHandle) -> None:
        await worker.start_update()
        sent = 0
        while sent < self.num_buckets:
            ready = self.buckets[sent : sent + AT_ONCE]
            if not ready:
                await self._moved.wait()  # for the learner, whose deadline runs
                continue
            await worker.receive(*ready)
            sent += len(ready)
            self._loaded[worker] = sent
            self._free()

    async def verify(self, worker: WorkerHandle) -> None:
        if list(await worker.verify(self.version)) != self.checksums:
            raise worker.distrust(f"it holds other weights than version {self.version}")

    def leave(self, worker: WorkerHandle) -> None:
        super().leave(worker)
        self._loaded.pop(worker, None)
        self._free()

    def _free(self) -> None:
        everywhere = min(self._loaded.values(), default=len(self.buckets))
        self.buckets[:everywhere] = [None] * everywhere
        self._moved.give()


class ObjectStoreTransport:
    """Sends copies of the weights through Ray's object store."""

    def __init__(self, learner: LearnerGroup, deadline_s: float) -> None:
        self.learner, self.deadline_s = learner, deadline_s
        self.plan: ExportPlan | None = None

    async def connect(self, workers: Sequence[WorkerHandle]) -> None:
        if self.plan is None:
            self.plan = await self.learner.export_plan()

    def start(self, version: int, workers: Iterable[WorkerHandle]) -> WeightPush:
        assert self.plan is not None, "connect first"
        workers = list(workers)
        push = self.push_class(self.plan, workers)
        return push(self.learner, self.plan, version, workers, self.deadline_s)

    def push_class(self, plan: ExportPlan, workers: Sequence[WorkerHandle]) -> type[BucketPush]:
        """The class that carries the buckets of one push."""
        return BucketPush
