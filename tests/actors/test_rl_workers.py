"""Faults of one side while rollout workers and learner connect for weights from GPU to GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors.learner.group import LearnerGroup
from actors.rl_workers import RLWorkers
from actors.rollout.fleet import RolloutFleet
from bimode.config.recipe import ModelConfig
from bimode.errors import LearnerLostError, WorkerLostError
from tests.actors.mortal_ranks import Engine, Sender

pytestmark = pytest.mark.ray


@pytest.fixture
def group(ray_local: Any) -> Iterator[LearnerGroup]:
    """A group whose rendezvous never ends."""
    made = object.__new__(LearnerGroup)
    made.ranks, made.started = [ray_local.remote(num_cpus=0)(Sender).remote()], []
    yield made
    made.close()


def connect(
    group: LearnerGroup, start: str, sync: str = "nccl", timeout_s: float = 12.0
) -> RLWorkers:
    fleet = RolloutFleet(
        start,
        ModelConfig(),
        workers=1,
        options={"num_cpus": 0},
        seed=0,
        sync=sync,
        worker=Engine,
        timeout_s=timeout_s,
    )
    try:
        workers = RLWorkers(fleet, group, sync, 1.0)
        if fleet.is_fixed:  # as start_workers does
            workers.weights.connect()
        return workers
    finally:
        fleet.close()


@pytest.mark.parametrize("sync", ["nccl", "ipc"])
def test_an_engine_that_fails_to_start_is_reported_by_its_own_error(
    group: LearnerGroup, sync: str
) -> None:
    """The rendezvous without it would end after minutes, with `1/2 clients joined`."""
    with pytest.raises(RayActorError, match="no room for the cache on the GPU"):
        connect(group, "too large", sync)


def test_an_engine_that_does_not_load_has_ten_times_the_timeout(group: LearnerGroup) -> None:
    with pytest.raises(WorkerLostError, match="rollout-0 has not answered machine for 5 s"):
        connect(group, "slow", timeout_s=0.5)


def test_a_rendezvous_that_does_not_end_is_given_up(group: LearnerGroup) -> None:
    """NCCL waits without limit for a process that died between the two halves of its rendezvous."""
    late = "the ranks and the rollout workers have not connected by nccl after 1 s"
    with pytest.raises(LearnerLostError, match=late):
        connect(group, "loaded")


def test_the_object_store_needs_no_rendezvous(group: LearnerGroup) -> None:
    assert connect(group, "slow", "object_store").weights.version == 0
