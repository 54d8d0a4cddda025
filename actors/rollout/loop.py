"""The rollout loop: one coroutine drives one worker, from loading its engine to its end.

A worker takes leases (`bimode.rl.scheduler`), generates in slices, and takes new weights in between
two of them. Its scored groups go to the scheduler, and from there in batches to the learner. The
same loop serves every staleness: at `max_staleness = 0` the scheduler admits one step at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.event_loop import EventLoop
from actors.rollout.fleet import RolloutFleet, WorkerFailedError, WorkerHandle
from actors.weights.update import WeightUpdates
from bimode.errors import LearnerLostError
from bimode.records import GenerationRequest, GenerationResult, Prompt
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace, Waits

SLICE_S = 0.5  # of a worker's time, between two of which weights may land
MOST_DAMAGED = 3  # weight updates in a row that arrive damaged, before the run ends
REFUSALS_SHOWN = 5  # prompts; metrics.jsonl counts all, and the ledger has the reasons


@dataclass(frozen=True, slots=True)
class StepStats:
    """What a step counted beside its batch: groups without credit, stale groups, refused prompts,
    workers now, workers lost so far, waits.
    """

    dropped: int
    stale: int
    refused: int
    workers: int
    lost: int
    waits: Waits


class RolloutTask(Protocol):
    """The interface of `bimode.rl.rollout_task.RolloutTask`; benchmarks bring their own."""

    def prompt(self, group_id: int) -> Prompt:
        """Return the prompt of a group."""

    def requests(self, lease: Lease) -> list[GenerationRequest]:
        """Return the requests of a lease."""

    def score(
        self, lease: Lease, results: Sequence[GenerationResult]
    ) -> list[ScoredGroup | RefusedPrompt]:
        """Return the results of those requests as groups, in the order of the lease."""


class Rollouts:
    """Rollouts of one fleet for one scheduler. `task` makes the requests of a lease and scores the
    completions; `on_event` gets a line about every change.

    `batch` and `mark_trained` block and are for the thread of the stage; everything else runs in
    `loop`.
    """

    def __init__(
        self,
        fleet: RolloutFleet,
        weights: WeightUpdates,
        scheduler: RolloutScheduler,
        task: RolloutTask,
        loop: EventLoop,
        *,
        on_event: Callable[[str], None],
        trace: Trace,
    ) -> None:
        self.fleet, self.weights, self.scheduler, self.task = fleet, weights, scheduler, task
        self.on_event, self.trace, self._loop = on_event, trace, loop
        self.weights.trace = trace
        self.target = len(fleet.workers)  # how many workers there should be
        self.lost = 0  # workers that died, were late or held wrong weights
        self.total = Waits()  # of all steps but the first, in which the engines load
        self._waits = Waits()  # of this step, summed over the workers
        self._is_first_step = True
        self._since = self._booked = time.monotonic()
        self._learner_waits = False
        self._damaged = 0
        self._refusals = set[str]()  # ids of the prompts that have been shown
        self._tasks = dict[WorkerHandle, asyncio.Task[None]]()
        self._failure: BaseException | None = None

    # ---- what the stage calls ----

    def batch(self, version: int) -> list[ScoredGroup]:
        """Return the groups of update `version`, once the learner may change its weights. Raises
        the error that stopped the loop.
        """
        return self._loop.run(self._batch(version))

    def mark_trained(self, batch: Sequence[ScoredGroup], step: int) -> StepStats:
        """Record that `batch` was trained on; return what else happened since the last call."""
        return self._loop.run(self._mark_trained(batch, step))

    def resize(self, target: int) -> None:
        """Add or remove workers until there are `target`. A worker that is removed finishes its
        leases first.
        """
        self._loop.run(self._resize(target))

    def __enter__(self) -> Rollouts:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._stop_all())

    # ---- in the event loop ----

    async def _batch(self, version: int) -> list[ScoredGroup]:
        asked = time.monotonic()
        for worker in self.fleet.workers:
            self._start(worker)
        self._book_idle()
        self._learner_waits = self.weights.learner_is_idle = True
        while True:
            self.weights.raise_failure()
            if self._failure is not None:
                raise self._failure
            self.weights.send_to_stragglers()
            if self.weights.learner_is_free:
                batch = self.scheduler.batch(version)
                if batch is not None:
                    break
            await self.weights.changed.wait()
        self._book_idle()
        self._learner_waits = self.weights.learner_is_idle = False
        self._waits += Waits(learner=self._booked - asked)
        self.trace.span("learner", "wait for a batch", asked, self._booked, version=version)
        return batch

    async def _mark_trained(self, batch: Sequence[ScoredGroup], step: int) -> StepStats:
        self._book_idle()
        now, workers, scheduler = self._booked, len(self.fleet.workers), self.scheduler
        spent, self.weights.spent = self.weights.spent, Waits()
        waits = (self._waits + spent + Waits(total=now - self._since)).over(workers)
        stats = StepStats(
            scheduler.filtered, scheduler.stale, scheduler.refused, workers, self.lost, waits
        )
        scheduler.mark_trained(batch, step)
        if not self._is_first_step:
            self.total += waits
        self._is_first_step = False
        self._since, self._waits = now, Waits()
        self.trace.span("learner", "learn", now - (waits.total - waits.learner), now, step=step)
        self.weights.changed.give()  # the next step may be admitted
        return stats

    async def _stop_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.weights.cancel()

    def _start(self, worker: WorkerHandle) -> None:
        if worker not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._live(worker))
            self._tasks[worker] = task

    async def _live(self, worker: WorkerHandle) -> None:
        """Drive a worker until it leaves or fails, and replace it if it failed."""
        try:
            await self._drive(worker)
        except WorkerFailedError as error:
            try:
                self._replace(worker, error)
            except Exception as final:
                self._fail(final)
        except LearnerLostError as error:  # found by a worker that was to read its memory
            self._fail(getattr(error, "cause", error))
        except Exception as error:
            self._fail(error)
        finally:
            self._tasks.pop(worker, None)
            self.weights.changed.give()

    async def _drive(self, worker: WorkerHandle) -> None:
        """Drive one worker: load its engine, then leases in slices, with weight updates between two
        slices.
        """
        await worker.ready()
        self.weights.changed.give()
        while self._is_wanted(worker) or worker.leases:
            push = self.weights.due(worker)
            if push is not None:
                await self.weights.update(worker, push)
                self._damaged = 0
            elif (lease := self._claim(worker)) is not None:
                requests = self.task.requests(lease)
                await worker.begin(lease.group_ids[0], requests, not self.scheduler.max_staleness)
            elif worker.leases:
                done = await worker.advance(SLICE_S)
                for group_id, results in done.items():
                    self._deliver(worker, group_id, results)
            else:
                await self._idle(worker)
        self.fleet.remove_worker(worker)
        self.weights.drop(worker)
        self.on_event(f"{worker.name} leaves; rollout workers: {len(self.fleet.workers)}")

    def _is_wanted(self, worker: WorkerHandle) -> bool:
        return worker in self.fleet.workers[: self.target] or self.fleet.is_fixed

    def _claim(self, worker: WorkerHandle) -> Lease | None:
        is_full = len(worker.leases) == self.scheduler.leases_in_flight
        if is_full or not self._is_wanted(worker):
            return None
        lease = self.scheduler.grant(worker.name, worker.version, self.weights.version)
        if lease is not None:
            worker.leases[lease.group_ids[0]] = lease, time.monotonic()
        return lease

    async def _idle(self, worker: WorkerHandle) -> None:
        worker.idle_since = time.monotonic()
        try:
            await self.weights.changed.wait()
        finally:
            self._book_idle()
            worker.idle_since = None

    def _deliver(
        self, worker: WorkerHandle, group_id: int, results: list[GenerationResult]
    ) -> None:
        lease, began = worker.leases.pop(group_id)
        now = time.monotonic()
        self.trace.span(worker.name, "lease", began, now, group_ids=lease.group_ids)
        scored = self.task.score(lease, results)
        for each in scored:
            if isinstance(each, RefusedPrompt):
                self._show_refusal(each)
        self.scheduler.deliver(lease, scored)
        self.weights.changed.give()

    def _show_refusal(self, refused: RefusedPrompt) -> None:
        prompt_id = self.task.prompt(refused.group_id).id
        if prompt_id in self._refusals or len(self._refusals) == REFUSALS_SHOWN:
            return
        self._refusals.add(prompt_id)
        rest = " (the ledger has further ones)" if len(self._refusals) == REFUSALS_SHOWN else ""
        line = f"{prompt_id} is refused: {refused.reason}; the next question replaces it{rest}"
        self.on_event(line)

    def _replace(self, worker: WorkerHandle, error: WorkerFailedError) -> None:
        """Replace a failed worker; its leases are granted again."""
        self._damaged += error.is_damage
        if self._damaged > MOST_DAMAGED:  # then they are damaged where they come from
            raise error.__cause__ or error
        successor = self.fleet.replace(worker)
        self.weights.drop(worker)
        self.lost += 1
        leases = [lease for lease, _ in worker.leases.values()]
        count = sum(len(lease.group_ids) for lease in leases)
        had = f"; its {count} questions go to another" if leases else ""
        self.on_event(f"{error}: {successor.name} takes its place{had}")
        for lease in reversed(leases):
            self.scheduler.give_back(lease, str(error))
        self._start(successor)

    async def _resize(self, target: int) -> None:
        if self.fleet.is_fixed or target == self.target:
            return
        self.target = target
        while len(self.fleet.workers) < target:
            worker = self.fleet.add_worker()
            self.on_event(f"{worker.name} joins; rollout workers: {len(self.fleet.workers)}")
            if self._tasks:  # else the first batch starts it
                self._start(worker)
        for worker in self.fleet.workers[target:]:
            if not worker.is_ready:  # its engine still loads: nothing to wait for
                if worker in self._tasks:
                    self._tasks[worker].cancel()
                self.fleet.remove_worker(worker)
                self.on_event(f"{worker.name} leaves; rollout workers: {len(self.fleet.workers)}")
        self.weights.changed.give()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _book_idle(self) -> None:
        """Count the time of idle workers: as waiting for other workers while the learner waits too,
        else as waiting for the learner.
        """
        now = time.monotonic()
        starts = [w.idle_since for w in self.fleet.workers if w.idle_since is not None]
        spent = sum(now - max(start, self._booked) for start in starts)
        self._waits += Waits(rollouts=spent) if self._learner_waits else Waits(full=spent)
        self._booked = now
