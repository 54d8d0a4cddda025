"""What a weight transport is: how the bytes of a policy version travel from the learner to the
rollout workers.

Each transport is a file beside this one. `actors.weights.update` drives them all through the same
five phases, and `bimode.rl.transports` holds what each declares:

    PREPARE    the learner exports; the workers go on with what they generate
    PAUSE      a worker has ended its slice and generates nothing from here on
    TRANSFER   it loads the weights
    VERIFY     it proves that it holds what was sent
    RESUME     the version is live; unfinished completions go on
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from actors.rollout.fleet import WorkerHandle


class WeightPush(ABC):
    """One policy version on its way to `workers`: those that were behind when it began, without
    those that have it or left.
    """

    # seconds that the learner waits for a slice, before a worker leaves the push; None: it does
    # not wait, and a slice that is too long counts against the worker
    slice_wait_s: float | None = None

    def __init__(self, version: int, workers: Iterable[WorkerHandle]) -> None:
        self.version, self.workers = version, set(workers)
        self.prepared = asyncio.Event()  # the workers may pause
        self.prepared_at = 0.0

    def set_prepared(self) -> None:
        """Allow the workers to pause."""
        if not self.prepared.is_set():
            self.prepared_at = time.monotonic()
            self.prepared.set()

    @property
    @abstractmethod
    def holds_learner(self) -> bool:
        """Whether the learner must keep its weights unchanged."""

    @abstractmethod
    async def prepare(self) -> None:
        """Export the weights on the learner's side, until all bytes have left it. Raises
        LearnerLostError.
        """

    async def pause(self, worker: WorkerHandle) -> None:  # noqa: B027  most have nothing
        """Wait for what a worker must finish before its transfer, beside its slice."""

    @abstractmethod
    async def transfer(self, worker: WorkerHandle) -> None:
        """Load the weights into a worker that has paused."""

    @abstractmethod
    async def verify(self, worker: WorkerHandle) -> None:
        """Compare what the worker holds with what was sent. Raises WorkerFailedError."""

    def leave(self, worker: WorkerHandle) -> None:
        """Remove a worker that has the version, is lost, or left."""
        self.workers.discard(worker)


class WeightTransport(Protocol):
    """How weights travel: one of `bimode.rl.transports.LIMITS`."""

    async def connect(self, workers: Sequence[WorkerHandle]) -> None:
        """Ask the learner how weights leave it, or form a group with the workers. A second call
        does nothing.
        """

    def start(self, version: int, workers: Iterable[WorkerHandle]) -> WeightPush:
        """Start to send one version to the workers that are behind; returns at once."""
