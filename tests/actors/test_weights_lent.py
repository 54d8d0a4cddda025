"""Shared memory: the learner stays as it is until all workers have loaded what it holds.

Real actors, learner and protocol; the engines are simulated (what a real one makes of shared
weights: test_weight_sync). Faults are in the suite of all transports (test_transports).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bimode.config.rl import BpoConfig
from bimode.errors import CorruptWeightsError, LearnerLostError
from bimode.storage.weights import SharedArray, WeightBucket, share
from tests.actors import loops
from tests.actors.damage import (
    add_one,
    dies_once_it_has_lent_all,
    first_numbers,
    holds_what_it_is_told,
    loaded,
    loads_at_the_end,
    looks_slowly,
    share_weights,
)
from tests.actors.loops import DEADLINE_S, new_fleet, new_learner, updates, versions

pytestmark = pytest.mark.ray

BPO = BpoConfig(prompts_per_step=2, group_size=2, max_tokens=20, rollout_workers=2, lease=1)


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    group = new_learner(text_model)
    ray_local.get(group.ranks[0].__ray_call__.remote(share_weights))
    yield group
    group.close()


@pytest.fixture
def fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    from benchmarks.peers.simulated import PromptWorker

    fleet = new_fleet(text_model, PromptWorker)
    yield fleet
    fleet.close()


@pytest.fixture
def weights(fleet: Any, learner: Any) -> Iterator[Any]:
    with updates(fleet, learner, DEADLINE_S) as found:
        yield found


def call(ray: Any, actor: Any, what: Callable[[Any], Any]) -> Any:
    return ray.get(actor.__ray_call__.remote(what))


def test_workers_load_what_the_learner_holds_and_it_waits_until_they_have(
    ray_local: Any, fleet: Any, learner: Any, weights: Any, tmp_path: Path
) -> None:
    for worker in fleet.workers:
        call(ray_local, worker.actor, holds_what_it_is_told)
    said: list[str] = []
    bpo = BPO.model_copy(update={"max_staleness": 1})
    with loops.rollouts(weights, tmp_path, bpo, said) as rollouts:
        for version in range(1, 4):
            weights.push(version)
            began = time.monotonic()
            rollouts.mark_trained(rollouts.batch(version), version)
            assert time.monotonic() - began > 0.5 and weights.learner_is_free
            wanted = call(ray_local, learner.ranks[0], first_numbers)
            held = [call(ray_local, worker.actor, loaded) for worker in fleet.workers]
            assert held == [wanted, wanted]
            call(ray_local, learner.ranks[0], add_one)
        bucket = ray_local.get(learner.export(9, 0, True).bucket)
    assert not said and bucket.shared and not bucket.arrays


def test_what_an_engine_loads_as_the_update_ends_is_still_what_it_was_lent(
    ray_local: Any, fleet: Any, learner: Any, weights: Any, tmp_path: Path
) -> None:
    """Though the learner changes it as soon as it may."""
    for worker in fleet.workers:
        call(ray_local, worker.actor, loads_at_the_end)
    wanted = call(ray_local, learner.ranks[0], first_numbers)
    said: list[str] = []
    bpo = BPO.model_copy(update={"max_staleness": 1})
    with loops.rollouts(weights, tmp_path, bpo, said) as rollouts:
        rollouts.mark_trained(rollouts.batch(0), 0)
        weights.push(1)
        rollouts.batch(1)
        call(ray_local, learner.ranks[0], add_one)
    held = [call(ray_local, worker.actor, loaded) for worker in fleet.workers]
    assert held == [wanted, wanted] and not said


def test_auto_shares_memory_on_one_machine_alone(weights: Any, fleet: Any, learner: Any) -> None:
    """A push to a worker on another machine goes by the object store."""
    from actors.weights.object_store import BucketPush
    from actors.weights.shared_memory import SharedMemoryPush

    weights.push(1)
    first, other = fleet.workers
    transport = weights.transport
    assert type(transport.start(2, [first, other])) is SharedMemoryPush
    other.machine = "elsewhere"
    assert type(transport.start(2, [first, other])) is BucketPush
    assert type(transport.start(2, [first])) is SharedMemoryPush


def test_a_worker_that_goes_from_bucket_to_bucket_is_not_late(
    ray_local: Any, fleet: Any, weights: Any, tmp_path: Path
) -> None:
    """However long all of them take."""
    for worker in fleet.workers:
        call(ray_local, worker.actor, looks_slowly)
    said: list[str] = []
    with loops.rollouts(weights, tmp_path, BPO, said) as rollouts:
        began = time.monotonic()
        weights.push(1)
        assert versions(rollouts.batch(1)) == {1}
    assert not said and time.monotonic() - began > 2 * DEADLINE_S


def test_a_learner_that_dies_before_its_weights_are_looked_at(
    ray_local: Any, fleet: Any, text_model: Path, tmp_path: Path
) -> None:
    """It is started again; its workers are not replaced for it."""
    other, said = new_learner(text_model), list[str]()
    try:
        call(ray_local, other.ranks[0], dies_once_it_has_lent_all)
        for worker in fleet.workers:
            call(ray_local, worker.actor, looks_slowly)
        line = "^the learner died while workers read"
        with (
            updates(fleet, other, DEADLINE_S) as weights,
            loops.rollouts(weights, tmp_path, BPO, said) as rollouts,
            pytest.raises(LearnerLostError, match=line),
        ):
            weights.push(1)
            rollouts.batch(1)
        assert not said
    finally:
        other.close()


def new_worker() -> Any:
    from benchmarks.peers.simulated import PromptWorker

    return PromptWorker("w", Path(), max_model_len=128, dtype="float32", seed=0, sync="auto")


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        (
            f"/proc/{os.getpid()}/fd/9999",
            LearnerLostError,
            "the learner died while workers read its weights of version 3",
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


def test_what_was_expected_of_another_version_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker that has left a push: its memory, and the hashing of what the learner has
    changed since.
    """
    import torch

    checked, go_on = list[int](), threading.Event()
    worker = new_worker()
    monkeypatch.setattr(
        "actors.rollout.worker._check",
        lambda bucket: go_on.wait() and checked.append(bucket.version),
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
