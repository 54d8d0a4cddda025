"""Admission, leases and batches: fixed at staleness 0, bounded above it, and nothing lost whoever
dies.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimode.errors import StarvedError
from bimode.modes import Mode
from bimode.records import Prompt, RolloutGroup
from bimode.rl.ledger import FILE, Ledger, read
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from tests.rollouts import completion, paired

DULL = {3, 4}  # groups whose groups carry no credit


def prompt_of(group_id: int) -> Prompt:
    return replace(paired([1], [1]).prompt, id=f"q{group_id}")


def scored(group_id: int, version: int) -> ScoredGroup:
    both = tuple(completion(mode, 2, version) for mode in (Mode.THINKING, Mode.NON_THINKING))
    return ScoredGroup(group_id, RolloutGroup(prompt_of(group_id), both, (1.0, 0.0)), ())


def carries_credit(group: RolloutGroup, step: int) -> bool:
    return int(group.prompt.id[1:]) not in DULL


def scheduler(
    folder: Path,
    staleness: int = 0,
    may_filter: int = 0,
    lease_groups: int = 2,
    groups: int = 4,
    num_prompts: int = 1 << 30,
) -> RolloutScheduler:
    return RolloutScheduler(
        Ledger(folder),
        prompt_of,
        carries_credit,
        num_prompts=num_prompts,
        groups_per_step=groups,
        lease_groups=lease_groups,
        max_staleness=staleness,
        may_filter=may_filter,
    )


def answer(scheduler: RolloutScheduler, lease: Lease, version: int) -> None:
    scheduler.deliver(lease, [scored(group_id, version) for group_id in lease.group_ids])


def test_a_synchronous_step_is_cut_into_fixed_leases(tmp_path: Path) -> None:
    it = scheduler(tmp_path)
    first, second = it.grant("a", 0, 0), it.grant("b", 0, 0)
    assert (first, second) == (Lease((0, 1), 0), Lease((2, 3), 0)) and it.grant("a", 0, 0) is None
    answer(it, second, 0)
    assert it.batch(0) is None and it.grant("b", 0, 0) is None
    it.give_back(first, "a died")
    assert it.grant("b", 0, 0) == first
    answer(it, first, 0)
    batch = it.batch(0)
    assert batch is not None and [d.group_id for d in batch] == [0, 1, 2, 3]
    assert it.grant("b", 0, 0) is None, "nothing of the next step before the weights are there"
    it.mark_trained(batch, 0)
    assert it.grant("b", 1, 1) == Lease((4, 5), 1)


def test_groups_without_credit_give_way_to_the_next_questions(tmp_path: Path) -> None:
    it = scheduler(tmp_path, may_filter=4)
    for _ in range(2):
        answer(it, it.grant("a", 0, 0), 0)  # type: ignore[arg-type]
    assert it.batch(0) is None and it.filtered == 1, "group 3"
    answer(it, it.grant("a", 0, 0), 0)  # type: ignore[arg-type]
    assert it.batch(0) is None and it.filtered == 2, "group 4, its substitute, too"
    answer(it, it.grant("a", 0, 0), 0)  # type: ignore[arg-type]
    batch = it.batch(0)
    assert batch is not None and [d.group_id for d in batch] == [0, 1, 2, 5]


def test_no_more_give_way_than_may(tmp_path: Path) -> None:
    it = scheduler(tmp_path, may_filter=1)
    for _ in range(3):
        answer(it, it.grant("a", 0, 0), 0)  # type: ignore[arg-type]
        batch = it.batch(0)
    assert batch is not None and [d.group_id for d in batch] == [0, 1, 2, 4]


def test_admission_is_bounded_by_the_live_version(tmp_path: Path) -> None:
    it = scheduler(tmp_path, staleness=1)
    leases = [it.grant("a", 0, 0) for _ in range(5)]
    assert leases[4] is None and it.admitted == 8
    for lease in leases[2:4]:  # the later ones come first
        answer(it, lease, 0)  # type: ignore[arg-type]
    batch = it.batch(0)
    assert batch is not None and [d.group_id for d in batch] == [
        4,
        5,
        6,
        7,
    ], "and are trained on without waiting"
    it.mark_trained(batch, 0)
    assert it.grant("a", 1, 1) == Lease((8, 9), 1)


def test_who_is_behind_gets_what_was_admitted_under_its_weights(tmp_path: Path) -> None:
    it = scheduler(tmp_path, staleness=1)
    assert it.grant("a", 0, 1) is None, (
        "nothing is admitted on behalf of older weights than the live ones"
    )
    assert it.grant("a", 0, 0) == Lease((0, 1), 0)
    rest = [it.grant("a", 0, 1) for _ in range(3)]
    assert rest == [Lease((2, 3), 0), Lease((4, 5), 0), Lease((6, 7), 0)]
    newest = it.grant("b", 1, 1)
    assert newest == Lease((8, 9), 1)
    it.give_back(newest, "b died")
    assert it.grant("a", 0, 1) is None
    it.give_back(rest[0], "a died")
    it.give_back(it.grant("b", 1, 1), "b died")
    it.give_back(it.grant("b", 1, 1), "b died")
    assert it.grant("a", 0, 1) == rest[0], "what was admitted since does not stand in its way"
    assert it.grant("a", 1, 1) == newest


def test_what_has_become_too_old_is_dropped_and_replaced(tmp_path: Path) -> None:
    it = scheduler(tmp_path, staleness=1, lease_groups=4)
    old = it.grant("slow", 0, 0)
    for version in (0, 1):
        answer(it, it.grant("a", version, version), version)  # type: ignore[arg-type]
        it.mark_trained(it.batch(version) or [], version)
    answer(it, old, 0)  # type: ignore[arg-type]
    assert it.batch(2) is None and it.stale == 4
    assert it.ledger.totals.counts()["stale"] == 4 and it.grant("a", 2, 2) == Lease(
        (12, 13, 14, 15), 2
    )


def refuse(
    scheduler: RolloutScheduler, lease: Lease | None, version: int, refused: set[int]
) -> None:
    """Answers a lease, of which the engine refuses the groups `refused`."""
    assert lease is not None
    found = [
        RefusedPrompt(t, "5 images") if t in refused else scored(t, version)
        for t in lease.group_ids
    ]
    scheduler.deliver(lease, found)


def test_the_next_question_replaces_a_refused_one(tmp_path: Path) -> None:
    """At staleness 0, where the step waits for it."""
    it = scheduler(tmp_path)
    refuse(it, it.grant("a", 0, 0), 0, {1})
    assert it.batch(0) is None
    refuse(it, it.grant("a", 0, 0), 0, {2, 3})
    assert it.batch(0) is None and it.refused == 3
    assert it.ledger.totals.counts()["refused"] == 3 and it.admitted == 1
    refuse(it, it.grant("a", 0, 0), 0, set())
    refuse(it, it.grant("a", 0, 0), 0, set())
    batch = it.batch(0)
    assert batch is not None and [d.group_id for d in batch] == [0, 4, 5, 6]
    it.mark_trained(batch, 0)
    assert it.refused == 0 and it.grant("a", 1, 1) == Lease((7, 8), 1)
    moves = read(tmp_path / FILE).moves
    assert [move["why"] for move in moves if move["to"] == "refused"] == ["5 images"] * 3


def test_a_refused_question_makes_room_above_staleness_0_too(tmp_path: Path) -> None:
    it = scheduler(tmp_path, staleness=1)
    leases = [it.grant("a", 0, 0) for _ in range(4)]
    assert it.grant("a", 0, 0) is None, "eight questions are under way"
    refuse(it, leases[0], 0, {0, 1})
    assert it.grant("a", 0, 0) == Lease((8, 9), 0)


def test_a_run_goes_on_behind_its_refused_questions(tmp_path: Path) -> None:
    """What was refused before the seal is not drawn again; what was refused behind it is."""
    it = scheduler(tmp_path, groups=2)
    refuse(it, it.grant("a", 0, 0), 0, {0})
    refuse(it, it.grant("a", 0, 0), 0, set())
    it.mark_trained(it.batch(0) or [], 0)
    it.ledger.seal(1, "c")
    refuse(it, it.grant("a", 1, 1), 1, {3, 4})
    again = scheduler(tmp_path, groups=2)
    again.ledger.resume(1)
    assert again.ledger.totals.counts()["refused"] == 1
    assert again.grant("a", 1, 1) == Lease((3, 4), 1)


def test_a_run_whose_every_question_is_refused_ends(tmp_path: Path) -> None:
    """Once each of them has been; not while one of them may still be answered."""
    it = scheduler(tmp_path, num_prompts=4)
    refuse(it, it.grant("a", 0, 0), 0, {0, 1})
    with pytest.raises(
        StarvedError, match=r"^every question is refused \(4\); the last was q3: 5 images$"
    ):
        refuse(it, it.grant("a", 0, 0), 0, {2, 3})
    patient = scheduler(tmp_path / "patient", num_prompts=5)
    for _ in range(2):
        refuse(patient, patient.grant("a", 0, 0), 0, {0, 1, 2, 3})


@settings(max_examples=60)
@given(st.data(), st.integers(0, 3), st.integers(1, 3), st.integers(0, 4))
def test_nothing_is_lost_or_repeated_whoever_dies(
    data: st.DataObject, staleness: int, lease_groups: int, may_filter: int
) -> None:
    """Workers answer, refuse, die or wait in any order: groups stay whole, bounds hold, and the
    run gets on.
    """
    with tempfile.TemporaryDirectory() as folder:
        it = scheduler(Path(folder), staleness, may_filter, lease_groups, groups=3)
        version, held, mark_trained = 0, dict[Lease, int](), list[int]()
        for _ in range(60):
            if (lease := it.grant("w", version, version)) is not None:
                held[lease] = version
            assert it.admitted <= (version + staleness + 1) * 3
            if held:
                lease = data.draw(st.sampled_from(sorted(held, key=lambda x: x.group_ids)))
                since = held.pop(lease)
                if data.draw(st.booleans()):
                    refuse(it, lease, since, data.draw(st.sets(st.sampled_from(lease.group_ids))))
                else:
                    it.give_back(lease, "died")
            if (batch := it.batch(version)) is not None:
                assert all(version - d.oldest <= staleness for d in batch)
                mark_trained += [d.group_id for d in batch]
                it.mark_trained(batch, version)
                version += 1
        assert len(mark_trained) == len(set(mark_trained)) == 3 * version
        found = read(Path(folder) / FILE)
        assert (
            found.totals.counts()["trained"] == len(mark_trained)
            and sum(found.totals.counts().values()) == found.totals.started
        )


def test_a_resumed_desk_grants_what_was_pending_first(tmp_path: Path) -> None:
    it = scheduler(tmp_path, staleness=2)
    it.grant("a", 0, 0)
    it.ledger.seal(1, "c")
    again = scheduler(tmp_path, staleness=2)
    again.ledger.resume(1)
    granted = again.grant("a", 0, 0)
    assert granted is not None and granted.group_ids == (0, 1)
    with pytest.raises(AssertionError):
        again.deliver(granted, [scored(7, 0)])
