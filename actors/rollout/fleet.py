"""The rollout workers of a run: typed, awaitable calls to their actors, each with a deadline, and
the replacement of lost workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.ray_errors import ACTOR_DIED, could_not_start
from bimode.config.recipe import ModelConfig
from bimode.errors import CorruptWeightsError, WorkerLostError
from bimode.records import GenerationRequest, GenerationResult
from bimode.rl.scheduler import Lease
from bimode.rl.transports import can_join

LOADING = 10  # times the usual timeout for a worker whose engine is still loading


class WorkerFailedError(WorkerLostError):
    """A worker died, was late, or holds wrong weights (`is_damage`). The reason follows its
    name.
    """

    def __init__(self, worker: str, why: str, is_damage: bool = False) -> None:
        super().__init__(f"{worker} {why}")
        self.is_damage = is_damage


@dataclass(frozen=True, slots=True)
class PhaseDeadline:
    """How long each call in a phase of a weight update may take. Example:
    ``PhaseDeadline("phase verify of version 3", 120.0)``."""

    name: str
    timeout_s: float  # of each call in it
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """The driver's handle of one rollout worker. A call that misses its deadline, or whose worker
    dies, raises WorkerFailedError. `leases` are the running ones, by their first group, with their
    start times.
    """

    name: str
    actor: Any
    timeout_s: float
    version: int = 0
    machine: str = ""  # where it runs (`bimode.storage.weights.machine`)
    is_ready: bool = False  # its engine has loaded
    leases: dict[int, tuple[Lease, float]] = field(default_factory=dict)
    idle_since: float | None = None
    _phase: PhaseDeadline | None = None  # of the weight update that it is in
    _awaited: PhaseDeadline | None = (
        None  # the phase that cannot begin before the call under way has ended
    )
    _deadline: asyncio.Timeout | None = None  # of the call under way

    async def ready(self) -> None:
        """Wait until the engine has loaded."""
        if not self.is_ready:
            self.machine = await self.call("machine")
            self.is_ready = True

    async def begin(
        self, lease: int, requests: Sequence[GenerationRequest], forget: bool = False
    ) -> None:
        """Start a lease (`RolloutWorker.begin`)."""
        await self.call("begin", lease, requests, forget)

    async def advance(self, seconds: float) -> dict[int, list[GenerationResult]]:
        """Generate one slice (`RolloutWorker.advance`); return the results of finished leases."""
        return await self.call("advance", seconds)

    async def load_weights(self, whole: Any) -> None:
        """Load a whole version; `whole` is a reference to a WeightBucket."""
        self.version = await self.call("load_weights", whole)

    async def start_update(self) -> None:
        """Pause generation for a weight update."""
        await self.call("start_update")

    async def receive(self, *buckets: Any) -> None:
        """Load buckets, given as references."""
        await self.call("receive", *buckets)

    async def verify(self, version: int) -> list[int]:
        """Return the checksums of what the worker received for `version`."""
        return await self.call("verify", version)

    async def finish_update(self, version: int) -> None:
        """Make `version` live and resume generation."""
        self.version = await self.call("finish_update", version)

    async def call(self, verb: str, *args: Any) -> Any:
        """Call a method of the actor and wait for its result."""
        return await self.result(getattr(self.actor, verb).remote(*args), verb)

    async def result(self, ref: Awaitable[Any], verb: str) -> Any:
        """Return the result of an earlier call. Raises WorkerFailedError."""
        began = time.monotonic()
        timeout_s = self.timeout_s * (1 if self.is_ready else LOADING)
        if self._phase is not None:
            timeout_s = self._phase.timeout_s
        try:
            async with asyncio.timeout(timeout_s) as self._deadline:
                return await ref
        except TimeoutError:
            if ray.wait([ref], timeout=0)[0]:  # it answered while this process was busy
                return await ref
            phase = self._phase or self._awaited
            why = f"has not answered {verb} for {timeout_s:.0f} s"
            if phase is not None:
                why = f"is late: {phase.name} is not over after {phase.timeout_s:.0f} s"
            raise WorkerFailedError(self.name, why) from None
        except ACTOR_DIED as error:
            if could_not_start(error):
                raise
            raise WorkerFailedError(self.name, f"died{self._after(began)}") from error
        except CorruptWeightsError as error:
            why = f"is not trusted{self._after(began)}: {getattr(error, 'cause', error)}"
            raise WorkerFailedError(self.name, why, is_damage=True) from error
        finally:
            self._deadline = self._awaited = None

    def distrust(self, why: str) -> WorkerFailedError:
        """Make the error for a worker that holds wrong weights."""
        return WorkerFailedError(self.name, f"is not trusted{self._after()}: {why}", True)

    def _after(self, began: float | None = None) -> str:
        phase = self._phase or self._awaited
        began = phase.began if phase else began or time.monotonic()
        where = f" in {phase.name}" if phase else ""
        return f"{where} after {time.monotonic() - began:.1f} s"

    @contextmanager
    def phase(self, name: str, timeout_s: float) -> Iterator[None]:
        """Bound each call in the block by the `timeout_s` of a phase of a weight update."""
        self._phase = PhaseDeadline(name, timeout_s)
        try:
            yield
        finally:
            self._phase = None

    @property
    def is_updating(self) -> bool:
        """Whether the worker has paused for a weight update."""
        return self._phase is not None

    def must_end(self, name: str, timeout_s: float) -> None:
        """Bound the running call by `timeout_s` from now: phase `name` waits for it."""
        if self._deadline is not None:
            self._awaited = PhaseDeadline(name, timeout_s)
            self._deadline.reschedule(asyncio.get_running_loop().time() + timeout_s)


class RolloutFleet:
    """The rollout workers of one model.

    `options` are ray.remote options of one worker (num_cpus, num_gpus, resources); `worker` is the
    class they are made of. A call may take `timeout_s`, ten times as long while the engine loads.
    """

    def __init__(
        self,
        model_dir: Path,
        model: ModelConfig,
        *,
        workers: int,
        options: Mapping[str, Any],
        seed: int,
        sync: str,
        worker: type | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        if worker is None:
            from actors.rollout.worker import RolloutWorker as worker

        self._remote = ray.remote(**options)(worker)
        self._args = (model_dir,)
        self._settings = {
            "max_model_len": model.max_model_len,
            "dtype": model.dtype,
            "seed": seed,
            "sync": sync,
        }
        self.sync, self.timeout_s = sync, timeout_s
        self._started = 0
        self.workers = [self._start() for _ in range(workers)]

    @property
    def actors(self) -> list[Any]:
        """The actors of the workers."""
        return [worker.actor for worker in self.workers]

    async def ready(self) -> None:
        """Wait until every engine has loaded. Raises WorkerFailedError."""
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    def _start(self) -> WorkerHandle:
        name = f"rollout-{self._started}"
        self._started += 1
        actor = self._remote.remote(name, *self._args, **self._settings)
        return WorkerHandle(name, actor, self.timeout_s)

    def replace(self, worker: WorkerHandle) -> WorkerHandle:
        """End `worker` and start its successor from the model's directory; the successor still has
        to load the live version. Raises WorkerLostError if the transport fixes the set of workers.
        """
        self._check_open(f"{worker.name} is gone and no other can take its place")
        ray.kill(worker.actor)
        successor = self._start()
        self.workers[self.workers.index(worker)] = successor
        return successor

    def add_worker(self) -> WorkerHandle:
        """Start one more worker. Raises WorkerLostError as `replace` does."""
        self._check_open("another worker cannot join")
        self.workers.append(self._start())
        return self.workers[-1]

    def remove_worker(self, worker: WorkerHandle) -> None:
        """End a worker that has no lease. Raises WorkerLostError as `replace` does."""
        self._check_open(f"{worker.name} cannot leave")
        ray.kill(worker.actor)
        self.workers.remove(worker)

    @property
    def is_fixed(self) -> bool:
        """Whether no worker can join, leave or be replaced."""
        return not can_join(self.sync)

    def _check_open(self, what: str) -> None:
        if self.is_fixed:
            fixed = f"bpo.sync = {self.sync} fixes the set of workers when the run starts"
            raise WorkerLostError(f"{what}: {fixed}")

    def close(self) -> None:
        """End the workers."""
        for actor in self.actors:
            ray.kill(actor)
        self.workers = []
