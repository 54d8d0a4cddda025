"""The rollout loop: leases to workers, weights to those that are behind, answers to the desk.

Consumes leases (`bimode.desk`) and the versions that the learner publishes; waits for slices of its workers and never for the
learner; is unblocked by a slice that ends, a worker that dies and one that is late; produces rewarded groups at the desk. At
`max_staleness = 0` it is driven by `batch` alone, in the caller's thread; else in a thread of its own, while the learner learns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.fleet import Member, RolloutFleet
from bimode.desk import Desk, Drawn, Lease
from bimode.errors import CorruptWeightsError
from bimode.records import Completion, GenerationRequest
from bimode.waits import Waits


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a step beside its batch: groups without credit and groups too old, workers there and lost so far, waits."""

    dropped: int
    stale: int
    workers: int
    lost: int
    waits: Waits


SLICE_S = 0.5  # of a worker's time, between two of which weights may land
POLL_S = 0.2
LOADING = 10  # times the patience for a worker that has not answered yet: its engine is loading
MOST_DAMAGED = 3  # snapshots in a row that arrive damaged, before the run ends


class Rollouts:
    """The loop over one fleet and one desk.

    `requests_of` says what a lease asks of a worker, `judge` turns its completions into rewarded groups, ticket by ticket; a
    worker that has not answered after `timeout_s` is replaced; `wanted` is how many there should be, at any time. `say` is
    told of every change.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        desk: Desk,
        requests_of: Callable[[Lease], list[GenerationRequest]],
        judge: Callable[[Lease, Sequence[Completion]], list[Drawn]],
        *,
        timeout_s: float,
        wanted: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        self.fleet, self.desk, self.requests_of, self.judge = fleet, desk, requests_of, judge
        self.timeout_s, self.wanted, self.say = timeout_s, wanted, say
        self._idle_s = self._sync_s = self._learner_s = 0.0  # since `_since`; the first two summed over workers
        self._since = time.monotonic()
        self.total = Waits(0.0, 0.0, 0.0, 0.0)  # over all steps
        self.lost = 0  # workers that died or were late
        self._damaged = 0
        self._leases: dict[Member, Lease] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: BaseException | None = None

    def batch(self, version: int) -> list[Drawn]:
        """The groups of update `version`; raises what stopped the loop."""
        asked = time.monotonic()
        if self.desk.max_staleness and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
            self._thread.start()
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if (batch := self.desk.batch(version)) is not None:
                    self._learner_s += time.monotonic() - asked
                    return batch
                if self._thread is not None:
                    self._changed.wait(POLL_S)
                    continue
            self.turn()

    def trained(self, batch: Sequence[Drawn], step: int) -> Ended:
        """`batch` has been trained on; what else has happened since the last one."""
        with self._changed:
            now, workers = time.monotonic(), len(self.fleet.members)
            waits = Waits(now - self._since, self._learner_s, self._idle_s / workers, self._sync_s / workers)
            ended = Ended(self.desk.filtered, self.desk.stale, workers, self.lost, waits)
            self.desk.trained(batch, step)
            self.total += waits
            self._since, self._idle_s, self._sync_s, self._learner_s = now, 0.0, 0.0, 0.0
        return ended

    def turn(self) -> None:
        """One round: workers come and go; who is idle gets work, who has answered is heard, who is late is replaced."""
        self._resize(self.wanted())
        with self._changed:
            for member in list(self.fleet.members):
                if member.call is None:
                    self._send(member)
        busy = {member.call: member for member in self.fleet.members if member.call is not None}
        if not busy:
            time.sleep(POLL_S)  # no more may be under way until the learner has made an update
            return
        for call in ray.wait(list(busy), timeout=POLL_S)[0]:
            self._hear(busy[call])
        for member in list(self.fleet.members):
            patience = self.timeout_s * (1 if member.has_answered else LOADING)
            if member.call is not None and time.monotonic() - member.since > patience:
                self._lose(member, f"has not answered {member.doing} for {patience:.0f} s")

    def close(self) -> None:
        """Ends the thread; what is under way is left to the ledger."""
        self._closing = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Rollouts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                self.turn()
        except BaseException as error:  # raised again where the learner waits
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _resize(self, wanted: int) -> None:
        """Newcomers load the live version first, as all do; who leaves finishes its lease before."""
        while len(self.fleet.members) < wanted:
            self.say(f"{self.fleet.grow().name} joins: {len(self.fleet.members)} rollout workers")
        for member in self.fleet.members[wanted:]:
            if member.call is None and member not in self._leases:
                self.fleet.dismiss(member)
                self.say(f"{member.name} leaves: {len(self.fleet.members)} rollout workers")

    def _send(self, member: Member) -> None:
        """Weights first, then a lease, then a slice of it; nothing new for who is about to leave."""
        if self.fleet.is_behind(member):
            self.fleet.refresh(member)
        elif member in self._leases:
            member.ask("advance", SLICE_S)
        elif self.fleet.members.index(member) < self.wanted():
            lease = self.desk.grant(member.name, self.fleet.version)
            if lease is not None:
                self._idle_s += time.monotonic() - member.since
                self._leases[member] = lease
                member.ask("begin", lease.tickets[0], self.requests_of(lease), not self.desk.max_staleness)

    def _hear(self, member: Member) -> None:
        try:
            answer: Any = ray.get(member.call)
        except RayActorError as error:
            if error.actor_init_failed:  # so would that of any other
                raise
            self._lose(member, "died")
            return
        except CorruptWeightsError as error:
            self._damaged += 1
            if self._damaged > MOST_DAMAGED:  # then they are damaged where they come from
                raise
            self._lose(member, f"is not trusted ({getattr(error, 'cause', error)})")
            return
        now = time.monotonic()
        if isinstance(answer, int):  # the version that it has loaded
            member.version, self._damaged = answer, 0
            self._sync_s += now - member.since
        member.call, member.since, member.has_answered = None, now, True
        for completions in (answer or {}).values() if isinstance(answer, dict) else ():
            lease = self._leases.pop(member)
            drawn = self.judge(lease, completions)
            with self._changed:
                self.desk.deliver(lease, drawn)
                self._changed.notify_all()

    def _lose(self, member: Member, why: str) -> None:
        successor = self.fleet.replace(member)
        lease = self._leases.pop(member, None)
        had = f"; its lease of {len(lease.tickets)} questions goes to another" if lease else ""
        self.say(f"{member.name} {why}: {successor.name} takes its place{had}")
        self.lost += 1
        if lease is not None:
            with self._changed:
                self.desk.give_back(lease, f"{member.name} {why}")
