"""What tests do to the actors of a fleet and of a learner. Actors import this file, so nothing
heavy stands at its top.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines.chaos import stall

PATIENCE_S = 2.0  # of a learner whose weights are lent
RESUME_S = 0.5


def slow_to_resume(worker: Any) -> None:
    """New weights are live only after a while."""
    finish = worker._engine.finish_update
    worker._engine.finish_update = lambda version: (time.sleep(RESUME_S), finish(version))


def die(_: Any) -> None:
    os._exit(1)


def die_later(_: Any) -> None:
    time.sleep(1.0)
    os._exit(1)


def at_verify(happens: Callable[[Any], None]) -> Callable[[Any], None]:
    def damage(worker: Any) -> None:
        worker._engine.missing_parameters = lambda: happens(worker)

    return damage


def at_resume(happens: Callable[[Any], None]) -> Callable[[Any], None]:
    def damage(worker: Any) -> None:
        worker._engine.finish_update = happens

    return damage


def at_update(happens: Callable[[Any], None]) -> Callable[[Any], None]:
    """When the learner's ranks send to the worker."""

    def damage(worker: Any) -> None:
        worker._engine.update = happens

    return damage


def at_slice(happens: Callable[[Any], None]) -> Callable[[Any], None]:
    """In the next step of its engine."""

    def damage(worker: Any) -> None:
        worker._engine.step = lambda: happens(worker)

    return damage


class SimulatedSender:
    """In the place of `actors.weights.sender.WeightSender`: calls every worker as vLLM's trainer
    engines do, and moves no bytes.
    """

    def __init__(self, model: Any, workers: Any, **settings: Any) -> None:
        from actors.weights.sender import WorkersClient

        self.client = WorkersClient(workers)
        self.client.init_weight_transfer_engine({"rank_offset": 1})

    def send(self) -> None:
        self.client.start_weight_update()
        self.client.update_weights({})
        self.client.finish_weight_update()


def simulate_senders(_: Any) -> None:
    """In a learner rank."""
    import actors.weights.sender

    actors.weights.sender.WeightSender = SimulatedSender  # type: ignore[misc, assignment]


def stall_at_send(rank: Any) -> None:
    rank.sender.send = lambda: stall(rank)


def die_at_send(rank: Any) -> None:
    rank.sender.send = lambda: die(rank)


def stall_at_third_bucket(rank: Any) -> None:
    """The workers have loaded what there was, and wait."""
    real = rank.learner.export_bucket
    rank.learner.export_bucket = lambda version, index, share: (
        stall(rank) if index == 2 else real(version, index, share)
    )


def into_small_buckets(rank: Any) -> None:
    from actors.learner.engines import named_tensors
    from actors.learner.group import ExportPlan
    from bimode.storage.weights import into_buckets

    sizes = [(name, 4 * tensor.numel()) for name, tensor in named_tensors(rank.learner.model)]
    rank.whole = rank.learner.buckets
    rank.learner.buckets = into_buckets(sizes, 64 << 10)
    rank._plan = ExportPlan(len(rank.learner.buckets), "")


def export_slowly(rank: Any) -> None:
    real = rank.learner.export_bucket

    def export_bucket(version: int, index: int, share: bool) -> Any:
        time.sleep(0.4)
        return real(version, index, share)

    rank.learner.export_bucket = export_bucket


def share_weights(rank: Any) -> None:
    """However small they are."""
    from actors.learner.group import ExportPlan
    from bimode.storage.weights import machine

    into_small_buckets(rank)
    assert rank.learner.share()
    rank._plan = ExportPlan(len(rank.learner.buckets), machine())


def holds_what_it_is_told(worker: Any) -> None:
    """Its engine keeps the first numbers of what it loads, and takes half a second for the first
    bucket.
    """

    def update(info: dict[str, Any]) -> None:
        time.sleep(0.0 if worker.loaded else 0.5)
        worker.loaded |= {
            name: array.reshape(-1)[:3].tolist()
            for name, array in zip(info["names"], info["arrays"], strict=True)
        }

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


def looks_slowly(worker: Any) -> None:
    real = worker._arrive

    def arrive(bucket: Any) -> Any:
        time.sleep(0.5 * PATIENCE_S)
        return real(bucket)

    worker._arrive = arrive


def dies_once_it_has_lent_all(rank: Any) -> None:
    share_weights(rank)
    real, last = rank.learner.export_bucket, len(rank.learner.buckets) - 1

    def export_bucket(version: int, index: int, share: bool) -> Any:
        if index == last:
            threading.Timer(0.5, os._exit, (1,)).start()
        return real(version, index, share)

    rank.learner.export_bucket = export_bucket


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
    return {
        name: p.detach().reshape(-1)[:3].tolist()
        for name, p in rank.learner.model.named_parameters()
    }


def add_one(rank: Any) -> None:
    import torch

    with torch.no_grad():
        for parameter in rank.learner.model.parameters():
            parameter += 1.0
