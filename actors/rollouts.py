"""The rollout loop: leases to workers, weights to those that are behind, answers to the desk.

Consumes leases (`bimode.desk`) and the versions that the learner publishes; waits for slices of its workers and never for the
learner; is unblocked by a slice that ends, a worker that dies and one that is late; produces rewarded groups at the desk. At
`max_staleness = 0` it is driven by `batch` alone, in the caller's thread; else in a thread of its own, while the learner learns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.fleet import Member, RolloutFleet
from bimode.desk import Desk, Drawn, Lease
from bimode.records import Completion, GenerationRequest

SLICE_S = 0.5  # of a worker's time, between two of which weights may land
POLL_S = 0.2


class Rollouts:
    """The loop over one fleet and one desk.

    `requests_of` says what a lease asks of a worker, `judge` turns its completions into rewarded groups, ticket by ticket; a
    worker that has not answered after `timeout_s` is replaced. `say` is told of every loss.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        desk: Desk,
        requests_of: Callable[[Lease], list[GenerationRequest]],
        judge: Callable[[Lease, Sequence[Completion]], list[Drawn]],
        *,
        timeout_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.fleet, self.desk, self.requests_of, self.judge = fleet, desk, requests_of, judge
        self.timeout_s, self.say = timeout_s, say
        self.lost = 0  # workers that died or were late
        self._leases: dict[Member, Lease] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: BaseException | None = None

    def batch(self, version: int) -> list[Drawn]:
        """The groups of update `version`; raises what stopped the loop."""
        if self.desk.max_staleness and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
            self._thread.start()
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if (batch := self.desk.batch(version)) is not None:
                    return batch
                if self._thread is not None:
                    self._changed.wait(POLL_S)
                    continue
            self.turn()

    def trained(self, batch: Sequence[Drawn], step: int) -> dict[str, int]:
        """`batch` has been trained on; what else has ended since the last: groups ``dropped`` without credit, or ``stale``."""
        with self._changed:
            gone = {"dropped": self.desk.filtered, "stale": self.desk.stale}
            self.desk.trained(batch, step)
        return gone

    def turn(self) -> None:
        """One round: whoever is idle gets work, whoever has answered is heard, whoever is late is replaced."""
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
            if member.call is not None and time.monotonic() - member.since > self.timeout_s:
                self._lose(member, f"has not answered for {self.timeout_s:.0f} s")

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

    def _send(self, member: Member) -> None:
        """Weights first, then a lease, then a slice of it."""
        if self.fleet.is_behind(member):
            self.fleet.refresh(member)
        elif member in self._leases:
            member.ask("advance", SLICE_S)
        elif (lease := self.desk.grant(member.name, self.fleet.version)) is not None:
            self._leases[member] = lease
            member.ask("begin", lease.tickets[0], self.requests_of(lease))

    def _hear(self, member: Member) -> None:
        try:
            answer: Any = ray.get(member.call)
        except RayActorError as error:
            if error.actor_init_failed:  # so would that of any other
                raise
            self._lose(member, "died")
            return
        member.call = None
        if isinstance(answer, int):  # the version that it has loaded
            member.version = answer
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
