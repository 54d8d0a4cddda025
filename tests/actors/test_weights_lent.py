"""A learner lends its weights to workers on its machine: it stays as it is until all have loaded
them, but for nobody for long.

Real actors, learner and protocol; the engines are simulated (what a real one makes of lent weights:
test_weight_sync).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bimode.errors import CorruptWeightsError, LearnerLostError
from bimode.storage.shared_memory import SharedArray, share
from bimode.storage.weights import WeightBucket
from pipelines.chaos import corrupt, slow
from tests.actors import test_weight_stream as streams
from tests.actors.damage import (
    PATIENCE_S,
    add_one,
    at_resume,
    die,
    dies_once_it_has_lent_all,
    first_numbers,
    has_a_long_slice,
    holds_another_bucket,
    holds_what_it_is_told,
    loaded,
    loads_at_the_end,
    looks_slowly,
    share_weights,
)
from tests.actors.test_weight_stream import held, new_learner

pytestmark = pytest.mark.ray

fleet, loop = streams.fleet, streams.loop


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    group = new_learner(text_model)
    ray_local.get(group.ranks[0].__ray_call__.remote(share_weights))
    assert group.outlet.shared_on and group.outlet.num_buckets > 4
    yield group
    group.close()


@pytest.fixture(autouse=True)
def allowed_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.weights import update

    monkeypatch.setattr(update, "PATIENCE_S", PATIENCE_S)


@pytest.fixture
def workers(fleet: Any) -> Iterator[list[Any]]:
    """Of whom nobody else hears what a test has left under way."""
    yield list(fleet.workers)
    for member in list(fleet.workers):
        fleet.replace(member)


def test_workers_load_what_the_learner_holds_and_it_waits_until_they_have(
    ray_local: Any, fleet: Any, learner: Any, loop: Any, workers: list[Any]
) -> None:
    def call(actor: Any, what: Callable[[Any], Any]) -> Any:
        return ray_local.get(actor.__ray_call__.remote(what))

    said: list[str] = []
    for member in workers:
        call(member.actor, holds_what_it_is_told)
    with loop(said, max_staleness=1) as rollouts:
        for _ in range(3):
            fleet.version += 1
            began = time.monotonic()
            rollouts.mark_trained(rollouts.batch(fleet.version), fleet.version)
            assert time.monotonic() - began > 0.5 and not rollouts.sync.needs_learner
            wanted = call(learner.ranks[0], first_numbers)
            assert [call(member.actor, loaded) for member in workers] == [wanted, wanted]
            call(learner.ranks[0], add_one)
        bucket = ray_local.get(learner.export(9, 0, True).bucket)
    assert not said and bucket.shared and not bucket.arrays


def test_what_an_engine_loads_as_the_update_ends_is_still_what_it_was_lent(
    ray_local: Any, fleet: Any, learner: Any, loop: Any, workers: list[Any]
) -> None:
    """Though the learner changes it as soon as it may."""
    for member in workers:
        ray_local.get(member.actor.__ray_call__.remote(loads_at_the_end))
    wanted = ray_local.get(learner.ranks[0].__ray_call__.remote(first_numbers))
    with loop(said := [], max_staleness=1) as rollouts:
        rollouts.mark_trained(rollouts.batch(fleet.version), fleet.version)
        time.sleep(1.0)  # the next batch is there
        fleet.version += 1
        rollouts.batch(fleet.version)
        ray_local.get(learner.ranks[0].__ray_call__.remote(add_one))
        while rollouts.sync.under_way:
            time.sleep(0.05)
    assert [ray_local.get(member.actor.__ray_call__.remote(loaded)) for member in workers] == [
        wanted,
        wanted,
    ] and not said


def test_the_learner_waits_for_no_worker_that_is_busy_with_its_slice(
    ray_local: Any, fleet: Any, learner: Any, loop: Any, workers: list[Any]
) -> None:
    """It gets the next weights at the latest."""
    said: list[str] = []

    def step(rollouts: Any) -> float:
        began = time.monotonic()
        rollouts.mark_trained(rollouts.batch(fleet.version), fleet.version)
        return time.monotonic() - began

    busy, other = workers
    ray_local.get(busy.actor.__ray_call__.remote(has_a_long_slice))
    with loop(said, max_staleness=9) as rollouts:
        step(rollouts)
        fleet.version += 1
        version = fleet.version
        assert step(rollouts) < 2 * PATIENCE_S
        assert busy.version < version == other.version
        until = time.monotonic() + 30
        while busy.version < version and time.monotonic() < until:
            fleet.version += 1
            assert step(rollouts) < 2 * PATIENCE_S
    assert not said and busy.version >= version and not rollouts.sync._stragglers


def test_newcomers_are_lent_what_they_lack(
    fleet: Any, learner: Any, loop: Any, workers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, though no loop has asked them where they run."""
    from actors.weights import update

    seen = []

    class Watched(update.WeightStream):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append((self.is_shared, len(self.updates)))

    monkeypatch.setattr(update, "WeightStream", Watched)
    fleet.version += 1
    for member in workers:
        member.machine = None
    update.WeightSync(fleet, learner, 60.0).catch_up()
    assert seen == [(True, 2)]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (slow, "is late: phase pause of version {} is not over after 2 s"),
        (at_resume(die), "died in phase resume of version {} after"),
        (corrupt, "is not trusted in phase transfer of version {} after"),
        (holds_another_bucket, "is not trusted in phase verify of version {} after"),
    ],
    ids=["slow", "dead", "corrupt", "wrong"],
)
def test_a_fault_of_a_worker(damage: Any, says: str, ray_local: Any, fleet: Any, loop: Any) -> None:
    said: list[str] = []
    victim = fleet.workers[0]
    with loop(said) as rollouts:
        ray_local.get(victim.actor.__ray_call__.remote(damage))
        fleet.version += 1
        batch = rollouts.batch(0)
        while not said:
            rollouts.step()
    assert held(batch) == {fleet.version} and victim not in fleet.workers
    assert len(said) == 1 and said[0].startswith(f"{victim.name} {says.format(fleet.version)}")


def new_worker() -> Any:
    from benchmarks.peers.simulated import PromptWorker

    return PromptWorker(
        "w", Path(), max_model_len=128, dtype="float32", seed=0, sync="object_store"
    )


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        (
            f"/proc/{os.getpid()}/fd/9999",
            LearnerLostError,
            "the learner died while it lent its weights of version 3",
        ),
        ("/proc", CorruptWeightsError, "the weights of version 3 cannot be read"),
    ],
    ids=["gone", "closed"],
)
def test_weights_that_cannot_be_read(path: str, error: type[Exception], says: str) -> None:
    """No worker is to blame for a learner that is gone."""
    worker, nowhere = new_worker(), SharedArray(path, 8, 0, (2,), (1,), "<f4")
    for verb in (worker.prefetch, worker.receive):
        with pytest.raises(error, match=says):
            verb(WeightBucket(3, ("w",), (), 0, (nowhere,)))


def test_a_worker_that_goes_from_bucket_to_bucket_is_not_late(
    ray_local: Any, fleet: Any, loop: Any, workers: list[Any]
) -> None:
    """However long all of them take."""
    for member in workers:
        ray_local.get(member.actor.__ray_call__.remote(looks_slowly))
    with loop(said := []) as rollouts:
        fleet.version += 1
        began = time.monotonic()
        assert held(rollouts.batch(0)) == {fleet.version}
    assert (
        not said and fleet.workers == workers and time.monotonic() - began > 2 * streams.DEADLINE_S
    )


def test_a_learner_that_dies_before_its_weights_are_looked_at(
    ray_local: Any, fleet: Any, loop: Any, workers: list[Any], text_model: Path
) -> None:
    """Is started again; its workers are not replaced for it."""
    other, said = new_learner(text_model), list[str]()
    try:
        ray_local.get(other.ranks[0].__ray_call__.remote(dies_once_it_has_lent_all))
        for member in workers:
            ray_local.get(member.actor.__ray_call__.remote(looks_slowly))
        with (
            loop(said, other) as rollouts,
            pytest.raises(LearnerLostError, match=r"^the learner died while it lent"),
        ):
            fleet.version += 1
            rollouts.batch(0)
        assert not said and fleet.workers == workers
    finally:
        other.close()


def test_what_was_expected_of_another_version_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who has left a stream: its memory, and the hashing of what the learner has changed
    since.
    """
    import torch

    worker, checked, go_on = new_worker(), list[int](), threading.Event()
    monkeypatch.setattr(
        worker, "_check", lambda bucket: go_on.wait() and checked.append(bucket.version)
    )
    weights = torch.arange(4.0)
    assert share([weights])
    place = SharedArray.of(weights)
    assert place is not None
    for version, names in ((1, "abc"), (2, "ab")):
        for name in names:
            worker.prefetch(WeightBucket(version, (name,), (), 0, (place,)))
    worker.prefetch(WeightBucket.of(2, ["d"], [weights.numpy()]))  # that came as a copy
    assert [bucket.version for bucket in worker._expected] == [2, 2]
    go_on.set()
    worker._checker.shutdown()
    assert checked == [1, 2, 2]  # the first had begun


class HeardMeanwhile(deque[Any]):
    """Whose only call is over, and heard by the loop's thread, once somebody has looked whether
    there is one.
    """

    def __len__(self) -> int:
        there = super().__len__()
        self.clear()
        return there


def test_a_call_that_ends_while_the_learner_looks_at_it_stops_nobody() -> None:
    from actors.rollout.fleet import Call, WorkerHandle
    from actors.weights.update import Phase, WorkerUpdate

    for phase in Phase:
        member = WorkerHandle("w", None, calls=HeardMeanwhile([Call("advance", None)]))
        assert (WorkerUpdate(member, phase).slice is not None) is (phase is Phase.PAUSE)
