"""Decides which prompts are generated next, by which worker, and when there are enough for an
update: a state machine without clock or Ray.

Admission (AReaL, arXiv 2505.24298, section 5.1): with policy version `v` live, B groups a step and
staleness bound s,

    admitted <= (v + s + 1) B

(admitted are those drawn, less those filtered, refused or dropped as stale),

so a group is trained on at most s versions after it was begun, unless others overtake it; those
that are older then are dropped. At s = 0 this is the synchronous loop: the B questions of a step
are cut into leases of a fixed size before the first is granted, so that which questions share a
lease, and with it every rounding error, does not depend on which worker was there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bimode.errors import StarvedError
from bimode.records import Completion, Prompt, RolloutGroup
from bimode.rl.ledger import Ledger, State


@dataclass(frozen=True, slots=True)
class Lease:
    """Prompts that one worker generates together, with the settings of `step`. ``Lease((24, 25,
    26), 1)``.
    """

    group_ids: tuple[int, ...]
    step: int


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A finished group with its rewards, and the probes of its choice of mode."""

    group_id: int
    group: RolloutGroup
    probes: tuple[Completion, ...]

    @property
    def oldest(self) -> int:
        """The oldest policy version of its tokens."""
        return min(v for c in self.group.completions for v in c.versions_T)


@dataclass(frozen=True, slots=True)
class RefusedPrompt:
    """A group whose prompt the engine refuses, or whose answer no verifier can judge.

    Example: ``RefusedPrompt(3, "5 images, at most 4")``.
    """

    group_id: int
    reason: str


class RolloutScheduler:
    """Grants leases to workers and returns batches to the learner. Every state change of a group is
    written to the ledger before it is acted on.

    `prompt_of` is the data order over `num_prompts` questions, counted by id; `keep` says whether a
    group carries credit; `may_filter` that do not may give way in a step. At `max_staleness` 0 a
    worker has one lease at a time, so that what it draws depends on nothing else.
    """

    def __init__(
        self,
        ledger: Ledger,
        prompt_of: Callable[[int], Prompt],
        keep: Callable[[RolloutGroup, int], bool],
        *,
        num_prompts: int,
        groups_per_step: int,
        lease_groups: int,
        max_staleness: int,
        may_filter: int,
        leases_in_flight: int = 1,
    ) -> None:
        self.ledger, self.prompt_of, self.keep = ledger, prompt_of, keep
        self.num_prompts = num_prompts
        self.groups_per_step, self.lease_groups = groups_per_step, lease_groups
        self.max_staleness, self.may_filter = max_staleness, may_filter
        self.leases_in_flight = leases_in_flight if max_staleness else 1
        self.granted: set[Lease] = set()
        self.filtered = self.stale = self.refused = 0  # since the last batch
        self._refused_ids: set[str] = set()
        self._queue: deque[Lease] = deque()
        self._fresh: dict[int, ScoredGroup] = {}
        self._ready: dict[int, ScoredGroup] = {}

    @property
    def admitted(self) -> int:
        """The number of groups that were trained on or still may be."""
        totals = self.ledger.totals
        dropped = (State.FILTERED, State.STALE, State.REFUSED)
        return totals.started - sum(totals.ended[state] for state in dropped)

    def grant(self, worker: str, version: int, live: int) -> Lease | None:
        """The next lease, for `worker` with weights of `version`, where `live` ones are on their
        way or there; None while no more may be under way, and of what has been admitted since newer
        ones than its own are live.
        """
        if not self._queue and version == live:
            self._plan(live)
        lease = next((lease for lease in self._queue if lease.step <= version), None)
        if lease is None:
            return None
        self._queue.remove(lease)
        self.ledger.move(lease.group_ids, State.LEASED, worker=worker, version=version)
        self.granted.add(lease)
        return lease

    def give_back(self, lease: Lease, why: str) -> None:
        """Grant the lease again, unchanged, before any other."""
        self.granted.remove(lease)
        self.ledger.move(lease.group_ids, State.PENDING, why=why)
        self._queue.appendleft(lease)

    def deliver(self, lease: Lease, found: Sequence[ScoredGroup | RefusedPrompt]) -> None:
        """Take the results of a lease, group by group; the next prompts replace refused ones.

        Raises StarvedError once every question of the data has been refused.
        """
        assert tuple(each.group_id for each in found) == lease.group_ids
        self.granted.remove(lease)
        for each in found:
            if isinstance(each, RefusedPrompt):
                self._refuse(each)
            else:
                self.ledger.move([each.group_id], State.GENERATED)
                self._fresh[each.group_id] = each

    def _refuse(self, found: RefusedPrompt) -> None:
        """End the group; its prompt will be refused again whenever it is drawn."""
        self.ledger.move([found.group_id], State.REFUSED, why=found.reason)
        self.refused += 1
        name = self.prompt_of(found.group_id).id
        self._refused_ids.add(name)
        if len(self._refused_ids) == self.num_prompts:
            every = f"every question is refused ({self.num_prompts})"
            raise StarvedError(f"{every}; the last was {name}: {found.reason}")

    def batch(self, version: int) -> list[ScoredGroup] | None:
        """Return the groups of update `version`, ordered by group, or None while there are too
        few.
        """
        if not self.max_staleness and (self.granted or self._queue):
            return None
        for held in (self._fresh, self._ready):  # first: of what is too old, `keep` is not asked
            for group_id in [
                t for t, scored in held.items() if version - scored.oldest > self.max_staleness
            ]:
                self.ledger.move(
                    [group_id],
                    State.STALE,
                    why=f"from version {held.pop(group_id).oldest}, now {version}",
                )
                self.stale += 1
        for group_id in sorted(self._fresh):
            scored = self._fresh.pop(group_id)
            if self.filtered < self.may_filter and not self.keep(scored.group, version):
                self.ledger.move([group_id], State.FILTERED, why="no credit")
                self.filtered += 1
            else:
                self._ready[group_id] = scored
        chosen = sorted(self._ready)[: self.groups_per_step]
        return (
            [self._ready[group_id] for group_id in chosen]
            if len(chosen) == self.groups_per_step
            else None
        )

    def mark_trained(self, batch: Sequence[ScoredGroup], step: int) -> None:
        """The update has been made: these groups are done with."""
        self.ledger.move([scored.group_id for scored in batch], State.TRAINED, step=step)
        for scored in batch:
            del self._ready[scored.group_id]
        self.filtered = self.stale = self.refused = 0

    def _plan(self, version: int) -> None:
        """Cuts what may be drawn now into leases: pending groups first, of which there are some
        after a resume.
        """
        if not self.max_staleness and self.granted:
            return
        pending = [
            group_id
            for group_id, state in sorted(self.ledger.totals.open.items())
            if state is State.PENDING
        ]
        first = self.ledger.totals.started
        room = (version + self.max_staleness + 1) * self.groups_per_step - self.admitted
        fresh = range(first, first + max(room, 0))
        for group_id in fresh:
            self.ledger.move([group_id], State.PENDING, id=self.prompt_of(group_id).id)
        group_ids = [*pending, *fresh]
        for start in range(0, len(group_ids), self.lease_groups):
            self._queue.append(Lease(tuple(group_ids[start : start + self.lease_groups]), version))
