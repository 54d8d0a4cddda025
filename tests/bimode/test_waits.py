"""Shares and advice, by hand."""

from __future__ import annotations

import pytest

from bimode.rl.timeline import Waits


def test_sums_become_means_and_shares() -> None:
    step = (
        Waits(learner=1.0)
        + Waits(rollouts=2.0, full=1.0)
        + Waits(total=4.0, stopped=0.5, transfer=0.25)
    )
    assert step.over(2) == Waits(
        total=4.0, learner=1.0, rollouts=1.0, full=0.5, stopped=0.25, transfer=0.125
    )
    assert step.over(2).shares() == Waits(1.0, 0.25, 0.25, 0.125, 0.0625, 0.03125)
    assert Waits().over(0) == Waits() and Waits().shares() == Waits()


@pytest.mark.parametrize(
    ("waits", "staleness", "says"),
    [
        (
            Waits(10.0, learner=8.0),
            1,
            (
                "add rollout workers (next time bpo.rollout_workers = 4; bimode scale while a run"
                " lives)"
            ),
        ),
        (Waits(10.0, full=6.0), 1, "1 of 2 rollout workers would do"),
        (
            Waits(10.0, learner=5.0, full=5.0),
            0,
            "bpo.max_staleness = 1 lets them work at the same time",
        ),
        (Waits(10.0, learner=4.0, stopped=4.0), 0, "a faster bpo.sync"),
    ],
)
def test_advice(waits: Waits, staleness: int, says: str) -> None:
    assert waits.advice(2, staleness, 99, "object_store").endswith(says)


@pytest.mark.parametrize("sync", ["nccl", "ipc"])
def test_nobody_is_advised_to_join_where_nobody_can(sync: str) -> None:
    assert (
        Waits(10.0, learner=8.0)
        .advice(2, 0, 99, sync)
        .endswith("add rollout workers (next time bpo.rollout_workers = 4)")
    )


def test_more_or_fewer_workers() -> None:
    assert Waits(10.0, learner=4.0, full=0.5).change(1) == 1
    assert Waits(10.0, learner=0.5, full=4.0).change(1) == -1
    assert (
        Waits(10.0, learner=4.0, full=4.0).change(1)
        == Waits(10.0, learner=0.5, full=0.5).change(1)
        == Waits().change(1)
        == 0
    )


def test_workers_that_take_turns_with_the_learner_are_not_too_many() -> None:
    assert Waits(10.0, learner=4.0, full=6.0).change(0) == 1
    assert Waits(10.0, learner=0.5, full=9.5).change(0) == -1


def test_no_more_workers_are_advised_than_there_is_room_for() -> None:
    hungry = Waits(10.0, learner=6.0)
    assert "(next time bpo.rollout_workers = 3;" in hungry.advice(2, 1, 3, "object_store")
    assert (
        "rollout_workers" not in (full := hungry.advice(3, 1, 3, "object_store"))
        and "cluster.num_cpus" in full
    )


def test_no_advice_where_nobody_waits_much() -> None:
    told = Waits(10.0, learner=1.0, rollouts=0.5, full=1.5, stopped=0.2, transfer=0.1).advice(
        2, 1, 99, "object_store"
    )
    assert (
        told
        == "of the time the learner waited 10 %, a rollout worker 5 % for the others, 15 % for the"
        " learner, 2 % for new weights"
    )
