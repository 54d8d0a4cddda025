"""A learner lends its weights to workers on its machine: it stays as it is until all have loaded them, but for nobody for long.

Real actors, learner and protocol; the engines of all but one test are simulated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bimode.errors import CorruptWeightsError
from bimode.shared_memory import SharedArray
from bimode.weights import WeightBucket
from pipelines.chaos import corrupt, slow
from tests.actors import test_weight_stream as streams
from tests.actors.test_weight_stream import held, into_small_buckets, new_learner

pytestmark = pytest.mark.ray

fleet, loop = streams.fleet, streams.loop
PATIENCE_S = 1.0


def lend(rank: Any) -> None:
    """However small they are."""
    from actors.learner_group import Outlet
    from bimode.shared_memory import machine

    into_small_buckets(rank)
    assert rank.learner.lend()
    rank._outlet = Outlet(len(rank.learner.buckets), machine())


def holds_what_it_is_told(worker: Any) -> None:
    """Its engine keeps the first numbers of what it loads, and takes half a second for the first bucket."""

    def update(info: dict[str, Any]) -> None:
        time.sleep(0.0 if worker.loaded else 0.5)
        worker.loaded |= {name: array.reshape(-1)[:3].tolist() for name, array in zip(info["names"], info["arrays"], strict=True)}

    worker.loaded = {}
    worker._engine.update = update


def loads_at_the_end(worker: Any) -> None:
    """As vLLM does with a layer that it pads."""
    holds_what_it_is_told(worker)
    waiting, update, finish = [], worker._engine.update, worker._engine.finish_update

    def finish_update(version: int) -> None:
        time.sleep(0.5)
        while waiting:
            update(waiting.pop())
        finish(version)

    worker._engine.update, worker._engine.finish_update = waiting.append, finish_update


def has_a_long_slice(worker: Any) -> None:
    real = worker._engine.step

    def step() -> Any:
        worker._engine.step = real
        time.sleep(4 * PATIENCE_S)
        return real()

    worker._engine.step = step


def holds_another_bucket(worker: Any) -> None:
    def missing_parameters() -> list[str]:
        worker._received.append(7)
        return []

    worker._engine.missing_parameters = missing_parameters


def loaded(worker: Any) -> dict[str, list[float]]:
    found = worker.loaded
    worker.loaded = {}
    return found


def first_numbers(rank: Any) -> dict[str, list[float]]:
    return {name: p.detach().reshape(-1)[:3].tolist() for name, p in rank.learner.model.named_parameters()}


def add_one(rank: Any) -> None:
    import torch

    with torch.no_grad():
        for parameter in rank.learner.model.parameters():
            parameter += 1.0


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    group = new_learner(text_model)
    ray_local.get(group.ranks[0].__ray_call__.remote(lend))
    assert group.outlet.lends_on and group.outlet.num_buckets > 4
    yield group
    group.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    from actors import weight_sync

    monkeypatch.setattr(weight_sync, "PATIENCE_S", PATIENCE_S)


@pytest.fixture
def workers(fleet: Any) -> Iterator[list[Any]]:
    """Of whom nobody else hears what a test has left under way."""
    yield list(fleet.members)
    for member in list(fleet.members):
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
            rollouts.trained(rollouts.batch(fleet.version), fleet.version)
            assert time.monotonic() - began > 0.5 and not rollouts.sync.needs_learner
            wanted = call(learner.ranks[0], first_numbers)
            assert [call(member.actor, loaded) for member in workers] == [wanted, wanted]
            call(learner.ranks[0], add_one)
        bucket = ray_local.get(learner.export(9, 0, True).bucket)
    assert not said and bucket.lent and not bucket.arrays


def test_what_an_engine_loads_as_the_update_ends_is_still_what_it_was_lent(
    ray_local: Any, fleet: Any, learner: Any, loop: Any, workers: list[Any]
) -> None:
    """Though the learner changes it as soon as it may."""
    for member in workers:
        ray_local.get(member.actor.__ray_call__.remote(loads_at_the_end))
    wanted = ray_local.get(learner.ranks[0].__ray_call__.remote(first_numbers))
    with loop(said := [], max_staleness=1) as rollouts:
        rollouts.trained(rollouts.batch(fleet.version), fleet.version)
        time.sleep(1.0)  # the next batch is there
        fleet.version += 1
        rollouts.batch(fleet.version)
        ray_local.get(learner.ranks[0].__ray_call__.remote(add_one))
        while rollouts.sync.under_way:
            time.sleep(0.05)
    assert [ray_local.get(member.actor.__ray_call__.remote(loaded)) for member in workers] == [wanted, wanted] and not said


def test_the_learner_waits_for_no_worker_that_is_busy_with_its_slice(
    ray_local: Any, fleet: Any, learner: Any, loop: Any, workers: list[Any]
) -> None:
    """It gets the next weights at the latest."""
    said: list[str] = []

    def step(rollouts: Any) -> float:
        began = time.monotonic()
        rollouts.trained(rollouts.batch(fleet.version), fleet.version)
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
    assert not said and busy.version >= version


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (slow, "is late: phase pause of version {} is not over after 1 s"),
        (streams.at_resume(streams.die), "died in phase resume of version {} after"),
        (corrupt, "is not trusted in phase transfer of version {} after"),
        (holds_another_bucket, "is not trusted in phase verify of version {} after"),
    ],
    ids=["slow", "dead", "corrupt", "wrong"],
)
def test_a_fault_of_a_worker(damage: Any, says: str, ray_local: Any, fleet: Any, loop: Any) -> None:
    said: list[str] = []
    victim = fleet.members[0]
    with loop(said) as rollouts:
        ray_local.get(victim.actor.__ray_call__.remote(damage))
        fleet.version += 1
        batch = rollouts.batch(0)
        while not said:
            rollouts.turn()
    assert held(batch) == {fleet.version} and victim not in fleet.members
    assert len(said) == 1 and said[0].startswith(f"{victim.name} {says.format(fleet.version)}")


def test_weights_whose_learner_is_gone_are_not_trusted() -> None:
    from benchmarks.peers.simulated import PromptWorker

    worker = PromptWorker("w", Path(), max_model_len=128, dtype="float32", seed=0, sync="object_store")
    nowhere = SharedArray(f"/proc/{os.getpid()}/fd/9999", 8, 0, (2,), (1,), "<f4")
    for verb in (worker.expect, worker.receive):
        with pytest.raises(CorruptWeightsError, match="version 3 cannot be read"):
            verb(WeightBucket(3, ("w",), (), 0, (nowhere,)))


def test_vllm_answers_with_weights_that_are_lent(ray_local: Any, text_actor: Any, learner: Any, text_model: Path) -> None:
    """As with the same weights copied, to the last bit."""
    from tests.actors.test_weight_sync import Bench, prompt

    bench = Bench(ray_local, text_actor, text_model, prompt(()))

    def update(version: int, is_lent: bool) -> Any:
        exports = [learner.export(version, index, is_lent) for index in range(learner.outlet.num_buckets)]
        for export in exports if is_lent else ():
            bench.call("expect", export.bucket)
        bench.call("start_update")
        for export in exports:
            bench.call("receive", export.bucket)
        assert bench.call("verify", version) == [learner.checksum_of(export) for export in exports]
        bench.call("finish_update", version)
        return [(c.token_ids_T, c.logprobs_T[c.num_forced :]) for c in bench.draw()]

    assert update(101, True) == update(102, False)
