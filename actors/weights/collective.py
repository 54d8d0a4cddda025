"""Weights from GPU to GPU, all workers at once: `nccl` and `ipc`, by vLLM's own engines.

The transfer begins when the last worker has paused, and is one collective call of the learner's
ranks. The group is formed once: a worker that is lost ends the run, which starts again from its
last checkpoint (`bpo.learner_restarts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from actors.learner.group import LearnerGroup
from actors.rollout.fleet import WorkerHandle
from actors.weights.transport import WeightPush


class CollectivePush(WeightPush):
    """One version, sent once to all workers."""

    def __init__(
        self,
        learner: LearnerGroup,
        version: int,
        workers: Iterable[WorkerHandle],
        deadline_s: float,
    ) -> None:
        super().__init__(version, workers)
        self.learner, self.deadline_s = learner, deadline_s
        self._waiting = set(self.workers)
        self._all_paused, self._sent = asyncio.Event(), asyncio.Event()

    @property
    def holds_learner(self) -> bool:
        return not self._sent.is_set()

    async def prepare(self) -> None:
        self.set_prepared()
        await self._all_paused.wait()
        await self.learner.send(self.version, self.deadline_s)
        self._sent.set()

    async def transfer(self, worker: WorkerHandle) -> None:
        await worker.start_update()
        self._waiting.discard(worker)
        if not self._waiting:
            self._all_paused.set()
        await self._sent.wait()

    async def verify(self, worker: WorkerHandle) -> None:
        await worker.verify(self.version)


class CollectiveTransport:
    """`nccl` between GPUs of any nodes, or `ipc` on one GPU (`actors.weights.sender`)."""

    def __init__(self, name: str, learner: LearnerGroup, deadline_s: float) -> None:
        self.name, self.learner, self.deadline_s = name, learner, deadline_s
        self._is_connected = False

    async def connect(self, workers: Sequence[WorkerHandle]) -> None:
        """Form the group once every engine has loaded: an engine that fails is reported by its own
        error, which a rendezvous without it would hide.
        """
        if self._is_connected:
            return
        await asyncio.gather(*(worker.ready() for worker in workers))
        actors = [worker.actor for worker in workers]
        await self.learner.open_senders(actors, self.name, self.deadline_s)
        self._is_connected = True

    def start(self, version: int, workers: Iterable[WorkerHandle]) -> WeightPush:
        return CollectivePush(self.learner, version, workers, self.deadline_s)
