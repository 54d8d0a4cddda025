"""Push new learner weights to the rollout workers.

Each worker goes through five phases (`actors.weights.transport`), each with its own deadline.
Workers advance independently: a slow or corrupted worker is replaced and does not delay the others.
A worker that joins late, or that was busy with older weights, gets its own push the next time that
the learner is free. Everything here runs in the event loop of `actors.rl_workers`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from actors.event_loop import EventLoop, Signal
from actors.learner.group import LearnerGroup
from actors.rollout.fleet import RolloutFleet, WorkerHandle
from actors.weights.collective import CollectiveTransport
from actors.weights.object_store import ObjectStoreTransport
from actors.weights.shared_memory import CpuTransport, SharedMemoryTransport
from actors.weights.transport import WeightPush, WeightTransport
from bimode.rl.timeline import Trace, Waits


class Phase(StrEnum):
    """The phases of a weight update; `prepare` is the learner's, the others are a worker's."""

    PREPARE = "prepare"
    PAUSE = "pause"
    TRANSFER = "transfer"
    VERIFY = "verify"
    RESUME = "resume"


def open_transport(sync: str, learner: LearnerGroup, deadline_s: float) -> WeightTransport:
    """Make the transport of `bpo.sync` (`bimode.rl.transports.resolve`)."""
    by_buckets = {
        "auto": CpuTransport,
        "object_store": ObjectStoreTransport,
        "shared_memory": SharedMemoryTransport,
    }
    if sync in by_buckets:
        return by_buckets[sync](learner, deadline_s)
    return CollectiveTransport(sync, learner, deadline_s)


class WeightUpdates:
    """The weight updates of one fleet. `version` is the live one; each call of a phase may take
    `deadline_s`.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        transport: WeightTransport,
        deadline_s: float,
        loop: EventLoop,
    ) -> None:
        self.fleet, self.transport, self.deadline_s = fleet, transport, deadline_s
        self.version = 0
        self.changed = Signal()  # given whenever a worker may go on, or a push has moved
        self.failure: BaseException | None = None  # of the learner's side
        self.trace: Trace | None = None
        self.spent = Waits()  # seconds of all workers, until somebody takes them
        self.pushes: list[WeightPush] = []
        self.learner_is_idle = False  # it may begin another push
        self._loop = loop
        self._stragglers = set[WorkerHandle]()  # in the slice for which they left a push
        self._tasks = set[asyncio.Task[None]]()

    def connect(self) -> None:
        """Connect learner and workers, if the transport needs it at the start."""
        self._loop.run(self.transport.connect(self.fleet.workers))

    def push(self, version: int) -> None:
        """Start to send the learner's weights, which are policy `version`, to every worker.

        Returns at once. The learner keeps them as they are until `Rollouts.batch` returns.
        """
        self._loop.run(self._push(version))

    def catch_up(self) -> None:
        """Wait until every worker holds the live version, while no rollout loop drives the fleet.
        Raises WorkerFailedError and LearnerLostError.
        """
        self._loop.run(self._catch_up())

    async def _push(self, version: int) -> None:
        self.version = version
        await self.transport.connect(self.fleet.workers)
        self.learner_is_idle = True
        self.send_to_stragglers()
        self.changed.give()

    async def cancel(self) -> None:
        """Give up every push, when no rollout loop drives the workers any more."""
        self.pushes, self.learner_is_idle = [], False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _catch_up(self) -> None:
        await self.fleet.ready()
        self.learner_is_idle = True
        while any(worker.version < self.version for worker in self.fleet.workers):
            self.send_to_stragglers()
            await asyncio.gather(*(self._take(worker) for worker in self.fleet.workers))
            self.raise_failure()
        self.learner_is_idle = False

    async def _take(self, worker: WorkerHandle) -> None:
        if (push := self.of(worker)) is None:
            return
        while not push.prepared.is_set():
            self.raise_failure()
            await self.changed.wait()
        await self.update(worker, push)

    def of(self, worker: WorkerHandle) -> WeightPush | None:
        """Return the push that the worker takes part in."""
        return next((push for push in self.pushes if worker in push.workers), None)

    @property
    def behind(self) -> list[WorkerHandle]:
        """Return the workers that hold older weights than the live ones and take part in no
        push.
        """
        return [
            worker
            for worker in self.fleet.workers
            if worker.is_ready
            and worker.version < self.version
            and worker not in self._stragglers
            and self.of(worker) is None
        ]

    @property
    def learner_is_free(self) -> bool:
        """Whether the learner may change its weights."""
        return not any(push.holds_learner for push in self.pushes)

    def send_to_stragglers(self) -> None:
        """Start a push to the workers that are behind, if the learner is free for one."""
        if self.learner_is_idle and self.learner_is_free and (behind := self.behind):
            push = self.transport.start(self.version, behind)
            self.pushes.append(push)
            self._spawn(self._prepare(push))
            self._spawn(self._await_pause(push))

    def raise_failure(self) -> None:
        """Raise the error that stopped the learner's side."""
        if self.failure is not None:
            raise self.failure

    def due(self, worker: WorkerHandle) -> WeightPush | None:
        """Return the push that a worker between two slices must take now."""
        self._stragglers.discard(worker)
        self.send_to_stragglers()
        push = self.of(worker)
        return push if push is not None and push.prepared.is_set() else None

    async def update(self, worker: WorkerHandle, push: WeightPush) -> None:
        """Take a worker through the phases of `push`. Raises WorkerFailedError."""
        stopped = time.monotonic()

        async def resume(worker: WorkerHandle) -> None:
            await worker.finish_update(push.version)

        phases = {
            Phase.PAUSE: push.pause,
            Phase.TRANSFER: push.transfer,
            Phase.VERIFY: push.verify,
            Phase.RESUME: resume,
        }
        began = push.prepared_at
        for phase, act in phases.items():
            with worker.phase(f"phase {phase} of version {push.version}", self.deadline_s):
                await act(worker)
            began = self._record(worker, phase, push.version, began)
        self.spent += Waits(stopped=time.monotonic() - stopped)
        self.drop(worker)

    def drop(self, worker: WorkerHandle) -> None:
        """Remove a worker that has its version, or is lost."""
        self._stragglers.discard(worker)
        self._leave(worker)

    def _leave(self, worker: WorkerHandle) -> None:
        for push in self.pushes:
            push.leave(worker)
        self.pushes = [push for push in self.pushes if push.workers]
        self.send_to_stragglers()
        self.changed.give()

    def _record(self, worker: WorkerHandle, phase: Phase, version: int, began: float) -> float:
        now = time.monotonic()
        if self.trace is not None:
            self.trace.span(worker.name, phase.value, began, now, version=version)
        if phase is Phase.TRANSFER:
            self.spent += Waits(transfer=now - began)
        return now

    async def _prepare(self, push: WeightPush) -> None:
        began = time.monotonic()
        await push.prepare()
        push.set_prepared()
        if self.trace is not None:
            self.trace.span("learner", Phase.PREPARE, began, time.monotonic(), version=push.version)

    async def _await_pause(self, push: WeightPush) -> None:
        """Bound the slices that the push waits for, or let their workers leave."""
        await push.prepared.wait()
        self.changed.give()
        if push.slice_wait_s is None:
            name = f"phase {Phase.PAUSE} of version {push.version}"
            for worker in push.workers:
                worker.must_end(name, self.deadline_s)
            return
        await asyncio.sleep(push.slice_wait_s)
        for worker in [w for w in push.workers if not w.is_updating]:
            self._stragglers.add(worker)
            self._leave(worker)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:  # raised where the learner waits
            self.failure = error
        finally:
            self.changed.give()
