"""The rollout workers of a run as actors: how many, what each is doing, which policy version it holds, who replaces whom."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from bimode.config import ModelConfig
from bimode.errors import StaleWeightsError, WorkerLostError
from bimode.records import Completion, GenerationRequest
from bimode.weights import WeightBucket


@dataclass(frozen=True, slots=True)
class Call:
    """A verb that a worker has been asked for, and the reference of its answer."""

    verb: str
    answer: Any


@dataclass(slots=True, eq=False)
class Member:
    """One worker: its actor, the version it holds, and the calls under way, oldest first; it is idle if there are none.

    `since` is when it began with the oldest, or became idle.
    """

    name: str
    actor: Any
    version: int = 0
    machine: str | None = None  # where it runs; None before it has said so
    calls: deque[Call] = field(default_factory=deque)
    has_answered: bool = False  # an engine that is still loading has not
    since: float = field(default_factory=time.monotonic)

    def ask(self, verb: str, *args: Any) -> None:
        """Sends it to work, after what it has been asked before."""
        if not self.calls:
            self.since = time.monotonic()
        self.calls.append(Call(verb, getattr(self.actor, verb).remote(*args)))

    @property
    def has_more_to_say(self) -> bool:
        """Whether the oldest call is over, and has not been heard."""
        return bool(self.calls and ray.wait([self.calls[0].answer], timeout=0)[0])

    def heard(self) -> float:
        """The oldest call is over; the seconds it took."""
        now = time.monotonic()
        took, self.since, self.has_answered = now - self.since, now, True
        self.calls.popleft()
        return took


class RolloutFleet:
    """Rollout workers: each can be asked alone (`Member.ask`, `hear`), and all of them by `generate` and `load_weights`.

    `options` are ray.remote options of one worker (num_cpus, num_gpus, resources); `worker` is the class they are made of.
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
    ) -> None:
        if worker is None:
            from actors.rollout_worker import RolloutWorker as worker

        self._remote = ray.remote(**options)(worker)
        self._args = (model_dir,)
        self._settings = {"max_model_len": model.max_model_len, "dtype": model.dtype, "seed": seed, "sync": sync}
        self._started = 0
        self.version = 0  # that every member should hold
        self.members = [self._start() for _ in range(workers)]

    @property
    def workers(self) -> list[Any]:
        """Their actors."""
        return [member.actor for member in self.members]

    def _start(self) -> Member:
        name = f"rollout-{self._started}"
        self._started += 1
        return Member(name, self._remote.remote(name, *self._args, **self._settings))

    def replace(self, member: Member) -> Member:
        """Ends `member` for good; its successor starts from the model's directory, and has still to load the live version.

        Raises WorkerLostError where weights go through a group that was formed at the start.
        """
        self._check_open(f"{member.name} is gone and no other can take its place")
        ray.kill(member.actor)
        successor = self._start()
        self.members[self.members.index(member)] = successor
        return successor

    def grow(self) -> Member:
        """One worker more; it has still to load the live version. Raises WorkerLostError as `replace` does."""
        self._check_open("another worker cannot join")
        self.members.append(self._start())
        return self.members[-1]

    def dismiss(self, member: Member) -> None:
        """Ends a worker that has nothing under way. Raises WorkerLostError as `replace` does."""
        self._check_open(f"{member.name} cannot leave")
        ray.kill(member.actor)
        self.members.remove(member)

    @property
    def is_fixed(self) -> bool:
        """Whether nobody can join, leave or be replaced."""
        return self._settings["sync"] != "object_store"

    def _check_open(self, what: str) -> None:
        if self.is_fixed:
            raise WorkerLostError(f"{what}: bpo.sync = {self._settings['sync']} fixes who is there when the run starts")

    def hear(self, seconds: float, also: Sequence[Any] = ()) -> Iterator[tuple[Member, Call, float]]:
        """Waits for an answer, or one of the references in `also`; who has answered which call, and the seconds it took."""
        busy = {member.calls[0].answer: member for member in self.members if member.calls}
        for ready in ray.wait([*busy, *also], timeout=seconds)[0] if busy or also else ():
            if (member := busy.get(ready)) is not None:
                call = member.calls[0]
                yield member, call, member.heard()

    def generate(self, requests: Sequence[GenerationRequest], version: int) -> list[Completion]:
        """Completions in the order of `requests`. Raises StaleWeightsError if any was drawn under another version."""
        shares = [list(range(i, len(requests), len(self.workers))) for i in range(len(self.workers))]
        answers = ray.get(
            [worker.generate.remote([requests[i] for i in share]) for worker, share in zip(self.workers, shares, strict=True)]
        )
        by_request: dict[int, list[Completion]] = {}
        for share, completions in zip(shares, answers, strict=True):
            at = 0
            for i in share:
                by_request[i] = completions[at : at + requests[i].n]
                at += requests[i].n
        ordered = [c for i in range(len(requests)) for c in by_request[i]]
        stale = {v for c in ordered for v in c.versions_T} - {version}
        if stale:
            raise StaleWeightsError(f"asked for policy version {version}, got tokens of {sorted(stale)}")
        return ordered

    def load_weights(self, whole: WeightBucket) -> None:
        """Puts all weights of a version into every worker. Raises StaleWeightsError if one is left behind."""
        bucket = ray.put(whole)
        self._agree(ray.get([worker.load_weights.remote(bucket) for worker in self.workers]), whole.version)

    def expect(self, version: int) -> None:
        """Raises StaleWeightsError unless every worker is at `version`."""
        self._agree(ray.get([worker.version.remote() for worker in self.workers]), version)

    def _agree(self, held: Sequence[int], version: int) -> None:
        if set(held) != {version}:
            raise StaleWeightsError(f"published version {version}, workers hold {list(held)}")
        self.version = version
        for member in self.members:
            member.version, member.has_answered = version, True

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            ray.kill(worker)
        self.members = []
