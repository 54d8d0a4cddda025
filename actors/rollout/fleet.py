"""The rollout workers of a run as actors: how many, what each is doing, which policy version it
holds, who replaces whom.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from actors.ray_errors import ACTOR_DIED, could_not_start
from bimode.config.recipe import ModelConfig
from bimode.errors import StaleWeightsError, WorkerLostError
from bimode.storage.weights import WeightBucket

LOADING = 10  # times the patience for a worker that has not answered yet: its engine is loading


@dataclass(frozen=True, slots=True)
class Call:
    """A verb that a worker has been asked for, and the reference of its answer."""

    verb: str
    answer: Any


@dataclass(slots=True, eq=False)
class WorkerHandle:
    """One worker: its actor, the version it holds, and the calls under way, oldest first; it is
    idle if there are none.

    `since` is when it began with the oldest, or became idle.
    """

    name: str
    actor: Any
    version: int = 0
    machine: str | None = None  # where it runs; None before it has said so
    calls: deque[Call] = field(default_factory=deque)
    has_answered: bool = False  # an engine that is still loading has not
    since: float = field(default_factory=time.monotonic)

    def call(self, verb: str, *args: Any) -> None:
        """Sends it to work, after what it has been asked before."""
        if not self.calls:
            self.since = time.monotonic()
        self.calls.append(Call(verb, getattr(self.actor, verb).remote(*args)))

    @property
    def busy_with(self) -> Call | None:
        """The oldest call; may be asked while another thread hears that it is over."""
        try:
            return self.calls[0]
        except IndexError:
            return None

    @property
    def has_more_to_say(self) -> bool:
        """Whether the oldest call is over, and has not been heard."""
        return bool(self.calls and ray.wait([self.calls[0].answer], timeout=0)[0])

    def allowed_s(self, timeout_s: float) -> float:
        """What it may take for an answer where `timeout_s` is what a worker that has loaded
        may.
        """
        return timeout_s * (1 if self.has_answered else LOADING)

    def timeout_reason(self, timeout_s: float) -> str:
        """What to say of it if it has been at its oldest call for longer than its patience; nothing
        if it has not.
        """
        timeout_s = self.allowed_s(timeout_s)
        if not self.calls or time.monotonic() - self.since <= timeout_s or self.has_more_to_say:
            return ""
        return f"has not answered {self.calls[0].verb} for {timeout_s:.0f} s"

    def complete(self) -> float:
        """The oldest call is over; the seconds it took."""
        now = time.monotonic()
        took, self.since, self.has_answered = now - self.since, now, True
        self.calls.popleft()
        return took


class RolloutFleet:
    """Rollout workers: each can be asked alone (`WorkerHandle.ask`, `poll`), and all of them by
    `load_weights` and `assert_version`.

    `options` are ray.remote options of one worker (num_cpus, num_gpus, resources); `worker` is the
    class they are made of. None may be silent for `timeout_s`, ten times as long while it loads.
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
        self.timeout_s = timeout_s
        self._started = 0
        self.version = 0  # that every member should hold
        self.workers = [self._start() for _ in range(workers)]

    @property
    def actors(self) -> list[Any]:
        """Their actors."""
        return [member.actor for member in self.workers]

    def _start(self) -> WorkerHandle:
        name = f"rollout-{self._started}"
        self._started += 1
        return WorkerHandle(name, self._remote.remote(name, *self._args, **self._settings))

    def replace(self, member: WorkerHandle) -> WorkerHandle:
        """Ends `member` for good; its successor starts from the model's directory, and has still to
        load the live version.

        Raises WorkerLostError where weights go through a group that was formed at the start.
        """
        self._check_open(f"{member.name} is gone and no other can take its place")
        ray.kill(member.actor)
        successor = self._start()
        self.workers[self.workers.index(member)] = successor
        return successor

    def add_worker(self) -> WorkerHandle:
        """One worker more; it has still to load the live version. Raises WorkerLostError as
        `replace` does.
        """
        self._check_open("another worker cannot join")
        self.workers.append(self._start())
        return self.workers[-1]

    def remove_worker(self, member: WorkerHandle) -> None:
        """Ends a worker that has nothing under way. Raises WorkerLostError as `replace` does."""
        self._check_open(f"{member.name} cannot leave")
        ray.kill(member.actor)
        self.workers.remove(member)

    @property
    def is_fixed(self) -> bool:
        """Whether nobody can join, leave or be replaced."""
        return self._settings["sync"] != "object_store"

    def _check_open(self, what: str) -> None:
        if self.is_fixed:
            raise WorkerLostError(
                f"{what}: bpo.sync = {self._settings['sync']} fixes who is there when the run"
                " starts"
            )

    def poll(
        self, seconds: float, also: Sequence[Any] = ()
    ) -> Iterator[tuple[WorkerHandle, Call, float]]:
        """Waits for an answer, or one of the references in `also`; who has answered which call, and
        the seconds it took.
        """
        busy = {member.calls[0].answer: member for member in self.workers if member.calls}
        for ready in ray.wait([*busy, *also], timeout=seconds)[0] if busy or also else ():
            if (member := busy.get(ready)) is not None:
                call = member.calls[0]
                yield member, call, member.complete()

    def load_weights(self, whole: WeightBucket) -> None:
        """Puts all weights of a version into every worker. Raises StaleWeightsError if one is left
        behind, and as `assert_version`.
        """
        self._agree(self._ask_all("load_weights", ray.put(whole)), whole.version)

    def assert_version(self, version: int) -> None:
        """Raises StaleWeightsError unless every worker is at `version`, and WorkerLostError for one
        that is gone or silent.
        """
        self._agree(self._ask_all("version"), version)

    def wait_until_ready(self) -> None:
        """Waits until every engine has loaded. Raises WorkerLostError as `assert_version`."""
        for member, version in zip(self.workers, self._ask_all("version"), strict=True):
            member.version, member.has_answered = version, True

    def _ask_all(self, verb: str, *args: Any) -> list[Any]:
        asked = [(member, getattr(member.actor, verb).remote(*args)) for member in self.workers]
        return [self._answer(member, verb, answer) for member, answer in asked]

    def _answer(self, member: WorkerHandle, verb: str, answer: Any) -> Any:
        timeout_s = member.allowed_s(self.timeout_s)
        try:
            return ray.get(answer, timeout=timeout_s)
        except GetTimeoutError:
            raise WorkerLostError(
                f"{member.name} has not answered {verb} for {timeout_s:.0f} s"
            ) from None
        except ACTOR_DIED as error:
            if could_not_start(error):
                raise
            raise WorkerLostError(f"{member.name} died before it answered {verb}") from error

    def _agree(self, held: Sequence[int], version: int) -> None:
        if set(held) != {version}:
            raise StaleWeightsError(f"published version {version}, workers hold {list(held)}")
        self.version = version
        for member in self.workers:
            member.version, member.has_answered = version, True

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.actors:
            ray.kill(worker)
        self.workers = []
