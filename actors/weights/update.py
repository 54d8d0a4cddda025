"""Weights from the learner to the rollout workers, in phases that each have a deadline.

    prepare    the learner puts a bucket into the object store, at most WINDOW ahead of the worker
               that is furthest; until so many are there the workers go on with what they generate.
               To workers on its own machine a learner on a CPU lends its weights instead: it says
               where all buckets lie, and they are checked meanwhile
    pause      a worker ends its slice; it generates nothing from here on
    transfer   it loads bucket after bucket, each checked on arrival, if it has not been
    verify     it says what it holds, and that is what was sent
    resume     the version is live: what was under way goes on

Consumes buckets of the learner group, while the learner has nothing else to do; waits for no single
worker: each goes at its own pace, and one that is late, or wrong, is told apart by `late` and by
what its calls raise, while the others go on. So that a big model needs no second copy in memory, a
bucket is freed as soon as every worker that takes part has it. A worker that comes later, or that
was busy with older weights, takes part in a stream of its own the next time that the learner is
free.

Weights that are lent are copied nowhere, and the learner leaves them as they are until everyone is
through with its update, since vLLM loads a layer that it pads only at the very end. Whoever is
still generating after PATIENCE_S leaves the stream. The buckets of a call may take as long as a
phase may elsewhere: one may be a tensor of any size, and who is replaced for it is so at every
version.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ray

from actors.learner.group import Export, LearnerGroup
from actors.rollout.fleet import Call, RolloutFleet, WorkerHandle
from bimode.errors import CorruptWeightsError, LearnerLostError, StaleWeightsError
from bimode.storage.weights import WINDOW

POLL_S = 0.2
PATIENCE_S = 10.0  # of a learner that lends its weights, with a slice
AT_ONCE = 8  # buckets of one call: a call takes milliseconds, in which nothing is loaded


PhaseOver = Callable[
    ["WorkerHandle", "Phase", int, float, float], None
]  # who, what, version, since when, stopped since when


class Phase(StrEnum):
    """Of a weight update; `prepare` is the learner's, whose deadline it has, the others are a
    worker's.
    """

    PREPARE = "prepare"
    PAUSE = "pause"
    TRANSFER = "transfer"
    VERIFY = "verify"
    RESUME = "resume"


@dataclass(slots=True, eq=False)
class WorkerUpdate:
    """How far one worker is."""

    member: WorkerHandle
    phase: Phase = Phase.PREPARE
    since: float = field(default_factory=time.monotonic)  # when the phase began
    moved: float = field(
        default_factory=time.monotonic
    )  # when it began, or the worker last answered
    stopped: float = 0.0  # when it stopped to generate
    sent: int = 0  # buckets it has been told to load
    loaded: int = 0

    @property
    def waits_for_learner(self) -> bool:
        """Whether nothing is left for it to do before the learner has more; its deadline does not
        run.
        """
        return self.phase is Phase.PREPARE or (
            self.phase is Phase.TRANSFER and self.loaded == self.sent > 0
        )

    @property
    def slice(self) -> Call | None:
        """What it has yet to end before it can pause, where that is more than a look at weights."""
        call = self.member.busy_with if self.phase is Phase.PAUSE else None
        return call if call is not None and call.verb != "prefetch" else None


class WeightStream:
    """One version on its way to those that were behind when it began."""

    def __init__(
        self, learner: LearnerGroup, version: int, workers: list[WorkerHandle], over: PhaseOver
    ) -> None:
        self.learner, self.version, self._over = learner, version, over
        self.updates = {member: WorkerUpdate(member) for member in workers}
        self.is_shared = learner.outlet.shared_on != "" and {m.machine for m in workers} == {
            learner.outlet.shared_on
        }
        self._window = learner.outlet.num_buckets if self.is_shared else WINDOW
        self.since = time.monotonic()  # when the learner began with the first of `exports`
        self.exports = deque[Export]()
        self._buckets: list[Any] = []  # references; None once everyone has it
        self._checksums: list[int] = []
        self._advance_learner()

    @property
    def is_exported(self) -> bool:
        """Whether every bucket has left the learner."""
        return len(self._checksums) == self.learner.outlet.num_buckets

    @property
    def is_out(self) -> bool:
        """Whether the learner is done with it."""
        return not self.updates or (self.is_exported and not self.is_shared)

    def step(self) -> None:
        """Moves on whatever can be moved, and waits for nothing. Raises LearnerLostError."""
        while self.exports and not self.exports[0].missing():
            export = self.exports.popleft()
            self._checksums.append(self.learner.checksum_of(export))
            self._buckets.append(export.bucket)
            self.since = time.monotonic()
            for member in self.updates if self.is_shared else ():
                member.call("prefetch", export.bucket)
        is_prepared = self.is_exported or len(self._checksums) >= self._window
        for taker in list(self.updates.values()):
            if taker.phase is Phase.PREPARE and is_prepared:
                self._enter(taker, Phase.PAUSE)
            if taker.phase is Phase.PAUSE and not taker.member.calls:
                taker.stopped = time.monotonic()
                self._enter(taker, Phase.TRANSFER)
                taker.member.call("start_update")
            if taker.phase is Phase.TRANSFER:
                self._send(taker)
        for index in range(
            min((taker.sent for taker in self.updates.values()), default=len(self._buckets))
        ):
            self._buckets[index] = None
        self._advance_learner()

    def drop_stragglers(self) -> Iterator[WorkerHandle]:
        """Who keeps the learner waiting with a slice that is too long."""
        for member, taker in list(self.updates.items()):
            if self.is_shared and taker.slice and time.monotonic() - taker.since > PATIENCE_S:
                del self.updates[member]
                yield member

    def late(self, deadline_s: float) -> Iterator[tuple[WorkerHandle, str]]:
        """Workers whose phase is longer than it may be, and what to say of them."""
        for member, taker in list(self.updates.items()):
            if taker.waits_for_learner or (self.is_shared and taker.slice):
                continue
            if (
                time.monotonic() - taker.moved > deadline_s and not member.has_more_to_say
            ):  # who was not listened to is not late
                yield (
                    member,
                    (
                        f"is late: phase {taker.phase} of version {self.version} is not over after"
                        f" {deadline_s:.0f} s"
                    ),
                )

    def _send(self, taker: WorkerUpdate) -> None:
        if taker.waits_for_learner:
            taker.moved = time.monotonic()
        there = len(self._buckets)
        for begin in range(taker.sent, there, AT_ONCE):
            taker.member.call("receive", *self._buckets[begin : begin + AT_ONCE])
        if self.is_exported and taker.sent < there:
            taker.member.call("verify", self.version)
        taker.sent = there

    def _advance_learner(self) -> None:
        if not self.updates:
            return
        asked, furthest = (
            len(self._checksums) + len(self.exports),
            max(taker.loaded for taker in self.updates.values()),
        )
        for index in range(asked, min(furthest + self._window, self.learner.outlet.num_buckets)):
            if not self.exports:
                self.since = time.monotonic()
            self.exports.append(self.learner.export(self.version, index, self.is_shared))

    def complete(self, member: WorkerHandle, verb: str, answer: Any) -> None:
        """A worker has done what it was asked for. Raises CorruptWeightsError if it holds something
        else than was sent.
        """
        taker = self.updates[member]
        taker.moved = time.monotonic()
        if verb == "receive":
            taker.loaded += answer
            if self.is_exported and taker.loaded == len(self._checksums):
                self._enter(taker, Phase.VERIFY)
        elif verb == "verify":
            if list(answer) != self._checksums:
                raise CorruptWeightsError(
                    f"{member.name} holds other weights than version {self.version}"
                )
            self._enter(taker, Phase.RESUME)
            member.call("finish_update", self.version)
        elif verb == "finish_update":
            self._enter(taker, None)
            member.version = answer
            del self.updates[member]

    def _enter(self, taker: WorkerUpdate, phase: Phase | None) -> None:
        self._over(taker.member, taker.phase, self.version, taker.since, taker.stopped)
        taker.since = taker.moved = time.monotonic()
        taker.phase = phase or taker.phase


class WeightSync:
    """All weights under way to one fleet; a phase may take `deadline_s`, and `over` is told of each
    that a worker is through.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        learner: LearnerGroup,
        deadline_s: float,
        over: PhaseOver = lambda *_: None,
    ) -> None:
        self.fleet, self.learner, self.deadline_s, self._over = fleet, learner, deadline_s, over
        self.streams: list[WeightStream] = []
        self._stragglers = set[
            WorkerHandle
        ]()  # a stream of weights that are lent, and have yet to end the slice that they were in

    def of(self, member: WorkerHandle) -> WeightStream | None:
        """The stream that it takes part in."""
        return next((stream for stream in self.streams if member in stream.updates), None)

    @property
    def behind(self) -> list[WorkerHandle]:
        """Who holds older weights than it should, and takes part in no stream; it counts once it
        has said where it runs, and again once it has ended the slice for which it left a stream.
        """
        old = [
            m
            for m in self.fleet.workers
            if m.machine is not None and m.version < self.fleet.version
        ]
        return [m for m in old if m not in self._stragglers and self.of(m) is None]

    @property
    def needs_learner(self) -> bool:
        """Whether the learner has to stay as it is for now."""
        return any(not stream.is_out for stream in self.streams) or bool(self.behind)

    @property
    def under_way(self) -> bool:
        """Whether a worker takes part in an update."""
        return any(stream.updates for stream in self.streams)

    @property
    def awaited(self) -> list[Any]:
        """References of what the learner has been asked for."""
        return [
            ref for stream in self.streams for export in stream.exports for ref in export.missing()
        ]

    def step(self, learner_is_free: bool) -> None:
        """Moves all streams on; opens one for those that are behind. Raises LearnerLostError, also
        for a learner that is late.
        """
        if (
            learner_is_free
            and all(stream.is_out for stream in self.streams)
            and (behind := self.behind)
        ):
            self.streams.append(WeightStream(self.learner, self.fleet.version, behind, self._over))
        for stream in self.streams:
            stream.step()
            self._stragglers.update(stream.drop_stragglers())
            if stream.exports and time.monotonic() - stream.since > self.deadline_s:
                raise LearnerLostError(
                    f"the learner: phase {Phase.PREPARE} of version {stream.version} is not over"
                    f" after {self.deadline_s:.0f} s"
                )
        self.streams = [stream for stream in self.streams if stream.updates]

    def complete(self, member: WorkerHandle, verb: str, answer: Any) -> None:
        """`WeightStream.hear`, where it takes part in one; or where it runs."""
        self._stragglers.discard(member)
        if verb == "machine":
            member.machine = answer
        if (stream := self.of(member)) is not None:
            stream.complete(member, verb, answer)

    def late(self) -> Iterator[tuple[WorkerHandle, str]]:
        """Workers whose phase is longer than it may be, and what to say of them."""
        for stream in self.streams:
            yield from stream.late(self.deadline_s)

    def may_generate(self, member: WorkerHandle) -> bool:
        """Whether its weights are whole and stay so for a slice."""
        stream = self.of(member)
        return stream.updates[member].phase is Phase.PREPARE if stream else True

    def phase_of(self, member: WorkerHandle) -> str:
        """The phase it is in, to read; nothing outside of an update."""
        stream = self.of(member)
        return (
            f" in phase {stream.updates[member].phase} of version {stream.version}"
            if stream
            else ""
        )

    def drop(self, member: WorkerHandle) -> None:
        """`member` is given up."""
        self._stragglers.discard(member)
        if (stream := self.of(member)) is not None:
            del stream.updates[member]

    def catch_up(self) -> None:
        """Waits until every worker holds the live version, while no loop drives the fleet; raises
        what one of them raises.
        """
        for member in self.fleet.workers:
            if member.machine is None:
                member.call("machine")
        while (
            self.needs_learner or self.streams or any(member.calls for member in self.fleet.workers)
        ):
            self.step(
                learner_is_free=all(member.machine is not None for member in self.fleet.workers)
            )
            for member, call, _ in self.fleet.poll(POLL_S, self.awaited):
                self.complete(member, call.verb, ray.get(call.answer))
            for member, why in self.late():
                raise StaleWeightsError(f"{member.name} {why}")
