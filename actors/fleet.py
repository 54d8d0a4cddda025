"""The rollout workers of a run as actors: how many there are, which policy version each of them holds, and who replaces whom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from bimode.config import ModelConfig
from bimode.errors import StaleWeightsError, WorkerLostError
from bimode.records import Completion, GenerationRequest


@dataclass(slots=True, eq=False)
class Member:
    """One worker: its actor, the version it holds, and the call that it is busy with since `since`, or idle if there is none."""

    name: str
    actor: Any
    version: int = 0
    call: Any = None
    doing: str = ""
    has_answered: bool = False  # an engine that is still loading has not
    since: float = field(default_factory=time.monotonic)

    def ask(self, verb: str, *args: Any) -> None:
        """Sends it to work; the answer is `call`'s."""
        self.call, self.doing, self.since = getattr(self.actor, verb).remote(*args), verb, time.monotonic()


class RolloutFleet:
    """Rollout workers: each can be asked alone, and all of them by `generate` and `load_weights`.

    `options` are ray.remote options of one worker (num_cpus, num_gpus, resources).
    """

    def __init__(
        self, model_dir: Path, model: ModelConfig, *, workers: int, options: Mapping[str, Any], seed: int, sync: str
    ) -> None:
        from actors.rollout_worker import RolloutWorker

        self._remote = ray.remote(**options)(RolloutWorker)
        self._args = (model_dir,)
        self._settings = {"max_model_len": model.max_model_len, "dtype": model.dtype, "seed": seed, "sync": sync}
        self._started = 0
        self.version, self._snapshot = 0, None
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

    def _check_open(self, what: str) -> None:
        if self._settings["sync"] != "object_store":
            raise WorkerLostError(f"{what}: bpo.sync = {self._settings['sync']} fixes who is there when the run starts")

    def aim_at(self, version: int, snapshot: Any) -> None:
        """From now on `version`, a reference to its snapshot, is what every member should hold."""
        self.version, self._snapshot = version, snapshot

    def is_behind(self, member: Member) -> bool:
        """Whether it holds an older version than the fleet aims at."""
        return member.version < self.version

    def refresh(self, member: Member) -> None:
        """Asks `member`, which is behind, to load the live version."""
        member.ask("load_weights", self._snapshot)

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

    def catch_up(self) -> None:
        """Puts the live version into every worker that is behind. Raises StaleWeightsError if one is left there."""
        if any(map(self.is_behind, self.members)):
            self._agree(ray.get([worker.load_weights.remote(self._snapshot) for worker in self.workers]), self.version)

    def load_weights(self, snapshot: Any, version: int) -> None:
        """Puts a snapshot (an object reference) into every worker. Raises StaleWeightsError if one is left behind."""
        self.aim_at(version, snapshot)
        self.catch_up()

    def expect(self, version: int) -> None:
        """Raises StaleWeightsError unless every worker is at `version`."""
        self._agree(ray.get([worker.version.remote() for worker in self.workers]), version)

    def _agree(self, held: Sequence[int], version: int) -> None:
        if set(held) != {version}:
            raise StaleWeightsError(f"published version {version}, workers hold {list(held)}")
        self.version = version
        for member in self.members:
            member.version = version

    def nodes(self) -> list[str]:
        """Ray node id of each worker."""
        return list(ray.get([worker.node_id.remote() for worker in self.workers]))

    def close(self) -> None:
        """Ends the workers and waits until their processes are gone."""
        for worker in self.workers:
            ray.kill(worker)
        self.members = []
