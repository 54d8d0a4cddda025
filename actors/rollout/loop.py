"""The rollout loop: leases to workers, weights to those that are behind, answers to the desk.

Consumes leases (`bimode.rl.scheduler`) and the weights that the learner publishes; waits for slices
of its workers and, for weights, for the learner; is unblocked by a slice that ends, a bucket of
weights, a worker that dies and one that is late; produces rewarded groups at the desk. At
`max_staleness = 0` it is driven by `batch` alone, in the caller's thread; else in a thread of its
own, while the learner learns.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.learner.group import LearnerGroup
from actors.ray_errors import ACTOR_DIED, could_not_start
from actors.rollout.fleet import Call, RolloutFleet, WorkerHandle
from actors.weights.update import Phase, WeightSync
from bimode.errors import CorruptWeightsError, LearnerLostError
from bimode.records import GenerationRequest, GenerationResult
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace
from bimode.rl.waits import Waits


@dataclass(frozen=True, slots=True)
class StepStats:
    """What came of a step beside its batch: groups without credit, groups too old, prompts that the
    engine refused, workers there and lost so far, waits.
    """

    dropped: int
    stale: int
    refused: int
    workers: int
    lost: int
    waits: Waits


SLICE_S = 0.5  # of a worker's time, between two of which weights may land
POLL_S = 0.2
MOST_DAMAGED = 3  # weights in a row that arrive damaged, before the run ends
REFUSALS_SHOWN = (
    5  # questions; metrics.jsonl counts all that are refused, the ledger has the reasons
)


class Rollouts:
    """The loop over one fleet, one learner and one desk.

    `requests_of` says what a lease asks of a worker, `judge` turns its results into rewarded
    groups, group by group; who gets no further in a weight update for `sync_timeout_s` is
    replaced; `wanted` is how many workers there should be, at any time; `say` is told of every
    change, and `record_step` of the waits of each step.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        learner: LearnerGroup,
        scheduler: RolloutScheduler,
        requests_of: Callable[[Lease], list[GenerationRequest]],
        judge: Callable[[Lease, Sequence[GenerationResult]], list[ScoredGroup | RefusedPrompt]],
        *,
        sync_timeout_s: float,
        wanted: Callable[[], int],
        on_event: Callable[[str], None],
        trace: Trace,
        record_step: Callable[[Waits], None] = lambda _: None,
    ) -> None:
        self.fleet, self.scheduler, self.requests_of, self.judge = (
            fleet,
            scheduler,
            requests_of,
            judge,
        )
        self.wanted, self.record_step, self.on_event, self.trace = (
            wanted,
            record_step,
            on_event,
            trace,
        )
        self.sync = WeightSync(fleet, learner, sync_timeout_s, self._phase_over)
        self._waits = self.total = (
            Waits()
        )  # of this step, summed over workers; of all steps but the first
        self._past_first = False
        self._since = self._booked = time.monotonic()
        self.lost = 0  # workers that died, were late or held wrong weights
        self._damaged = 0
        self._refusals: set[str] = set()  # ids of those that have been shown
        self._leases = defaultdict[WorkerHandle, dict[int, tuple[Lease, float]]](
            dict
        )  # by first group, with when they were begun
        self._learner_waits = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._error: BaseException | None = None

    def batch(self, version: int) -> list[ScoredGroup]:
        """The groups of update `version`, once the learner's weights are on their way; where no
        thread listens to the workers while the learner learns, once they have arrived. Raises what
        stopped the loop.
        """
        asked = time.monotonic()
        with self._changed:
            self._book_idle()  # so far the learner had a batch
            self._learner_waits = True
        if self.scheduler.max_staleness and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
            self._thread.start()
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._thread is not None:  # whose turn may be a while
                    self.sync.step(learner_is_free=True)
                    self._changed.notify_all()
                is_free = not self.sync.needs_learner and (
                    self._thread is not None or not self.sync.under_way
                )
                if is_free and (batch := self.scheduler.batch(version)) is not None:
                    self._book_idle()
                    self._learner_waits, now = False, self._booked
                    self._waits += Waits(learner=now - asked)
                    self.trace.span("learner", "wait for a batch", asked, now, version=version)
                    return batch
                awaited = self.sync.awaited
                if self._thread is not None and not awaited:
                    self._changed.wait(POLL_S)
            if self._thread is None:
                self.step()
            elif awaited:
                ray.wait(awaited, timeout=POLL_S)

    def mark_trained(self, batch: Sequence[ScoredGroup], step: int) -> StepStats:
        """`batch` has been trained on; what else has happened since the last one."""
        with self._changed:
            self._book_idle()
            now, workers = self._booked, len(self.fleet.workers)
            waits = (self._waits + Waits(total=now - self._since)).over(workers)
            ended = self._ended(workers, waits)
            self.scheduler.mark_trained(batch, step)
            if self._past_first:  # in which the engines load
                self.total += waits
            self._past_first = True
            self._since, self._waits = now, Waits()
        self.record_step(waits)
        self.trace.span("learner", "learn", now - (waits.total - waits.learner), now, step=step)
        return ended

    def _ended(self, workers: int, waits: Waits) -> StepStats:
        scheduler = self.scheduler
        return StepStats(
            scheduler.filtered, scheduler.stale, scheduler.refused, workers, self.lost, waits
        )

    def step(self) -> None:
        """One round: workers come and go; who is idle gets work, who has answered is heard, who is
        late is replaced.
        """
        with self._changed:
            self._book_idle()
            wanted = self.wanted()
            self._resize(wanted)
            self.sync.step(self._learner_waits)
            for member in list(self.fleet.workers):
                if not member.calls:
                    self._send(member, wanted)
            awaited = self.sync.awaited
        if not awaited and not any(member.calls for member in self.fleet.workers):
            with self._changed:
                self._changed.wait(
                    POLL_S
                )  # no more may be under way until the learner has made an update
            return
        for member, call, seconds in self.fleet.poll(POLL_S, awaited):
            self._hear(member, call, seconds)
        for member, why in [*self._silent(), *self.sync.late()]:
            self._lose(member, why)

    def _silent(self) -> Iterator[tuple[WorkerHandle, str]]:
        """Workers that have not ended their slice, outside of an update, and what to say of
        them.
        """
        for member in self.fleet.workers:
            if self.sync.of(member) is None and (
                why := member.timeout_reason(self.fleet.timeout_s)
            ):
                yield member, why

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
                self.step()
        except BaseException as error:  # raised again where the learner waits
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _resize(self, wanted: int) -> None:
        """Newcomers load the live version first, as all do; who leaves finishes its lease
        before.
        """
        if self.fleet.is_fixed:
            return
        while len(self.fleet.workers) < wanted:
            self.on_event(
                f"{self.fleet.add_worker().name} joins; rollout workers: {len(self.fleet.workers)}"
            )
        for member in self.fleet.workers[wanted:]:
            is_idle = not member.calls and not self._leases[member] and self.sync.of(member) is None
            if is_idle or not member.has_answered:
                self.fleet.remove_worker(member)
                self._leases.pop(member, None)
                self.on_event(f"{member.name} leaves; rollout workers: {len(self.fleet.workers)}")

    def _send(self, member: WorkerHandle, wanted: int) -> None:
        """A new lease, or a slice of those under way; nothing for who is about to leave or takes
        new weights in.
        """
        if member.machine is None:
            member.call("machine")
        elif not self.sync.may_generate(member):
            return
        elif (lease := self._grant(member, wanted)) is not None:
            self._leases[member][lease.group_ids[0]] = lease, time.monotonic()
            member.call(
                "begin",
                lease.group_ids[0],
                self.requests_of(lease),
                not self.scheduler.max_staleness,
            )
        elif self._leases[member]:
            member.call("advance", SLICE_S)

    def _grant(self, member: WorkerHandle, wanted: int) -> Lease | None:
        if (
            len(self._leases[member]) == self.scheduler.leases_in_flight
            or self.fleet.workers.index(member) >= wanted
        ):
            return None
        return self.scheduler.grant(member.name, member.version, self.fleet.version)

    def _hear(self, member: WorkerHandle, call: Call, seconds: float) -> None:
        try:
            answer: Any = ray.get(call.answer)
            with self._changed:
                self.sync.complete(member, call.verb, answer)
                self._changed.notify_all()
        except ACTOR_DIED as error:
            if could_not_start(error):
                raise
            self._lose(member, f"died{self.sync.phase_of(member)} after {seconds:.1f} s")
            return
        except LearnerLostError as error:  # found by who was to read its memory
            raise getattr(error, "cause", error) from None
        except CorruptWeightsError as error:
            self._damaged += 1
            if self._damaged > MOST_DAMAGED:  # then they are damaged where they come from
                raise
            self._lose(
                member,
                f"is not trusted{self.sync.phase_of(member)} after {seconds:.1f} s:"
                f" {getattr(error, 'cause', error)}",
            )
            return
        if call.verb == "advance":
            for group_id, results in answer.items():
                self._deliver(member, *self._leases[member].pop(group_id), results)

    def _deliver(
        self, member: WorkerHandle, lease: Lease, begun: float, results: list[GenerationResult]
    ) -> None:
        self.trace.span(member.name, "lease", begun, time.monotonic(), group_ids=lease.group_ids)
        found = self.judge(lease, results)
        for each in found:
            if isinstance(each, RefusedPrompt):
                self._show_refusal(self.scheduler.prompt_of(each.group_id).id, each.reason)
        with self._changed:
            self.scheduler.deliver(lease, found)
            self._changed.notify_all()

    def _show_refusal(self, question: str, reason: str) -> None:
        if question in self._refusals or len(self._refusals) == REFUSALS_SHOWN:
            return
        self._refusals.add(question)
        rest = " (the ledger has further ones)" if len(self._refusals) == REFUSALS_SHOWN else ""
        self.on_event(f"{question} is refused: {reason}; the next question replaces it{rest}")

    def _phase_over(
        self, member: WorkerHandle, phase: Phase, version: int, began: float, stopped: float
    ) -> None:
        """Books the time that a worker was in a phase of a weight update, and at its end that it
        was stopped.
        """
        now = time.monotonic()
        self.trace.span(member.name, phase.value, began, now, version=version)
        if phase is Phase.TRANSFER:
            self._waits += Waits(transfer=now - began)
        if phase is Phase.RESUME:
            self._waits += Waits(stopped=now - stopped)
            self._damaged = 0

    def _book_idle(self) -> None:
        """Time since the last round, for each worker without anything to do; one stopped by new
        weights is booked apart.
        """
        now = time.monotonic()
        free = [
            m
            for m in self.fleet.workers
            if not m.calls and m.has_answered and self.sync.may_generate(m)
        ]
        idle = [m for m in free if not self._leases[m]]
        spent = sum(now - max(member.since, self._booked) for member in idle)
        self._waits += Waits(rollouts=spent) if self._learner_waits else Waits(full=spent)
        self._booked = now

    def _lose(self, member: WorkerHandle, why: str) -> None:
        with self._changed:
            self.sync.drop(member)
            successor = self.fleet.replace(member)
            self.lost += 1
            leases = [lease for lease, _ in self._leases.pop(member, {}).values()]
            had = (
                f"; its {sum(len(lease.group_ids) for lease in leases)} questions go to another"
                if leases
                else ""
            )
            self.on_event(f"{member.name} {why}: {successor.name} takes its place{had}")
            for lease in reversed(leases):
                self.scheduler.give_back(lease, f"{member.name} {why}")
