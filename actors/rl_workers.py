"""The actors of a BPO run: rollout workers on one side, the learner group on the other, weights
between them.

Each side has its own resources and its own size; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from actors.event_loop import EventLoop
from actors.learner.group import LearnerGroup
from actors.learner.learner import LearnerSpec
from actors.rollout.fleet import RolloutFleet
from actors.rollout.generate import generate
from actors.weights.update import WeightUpdates, open_transport
from bimode.config.recipe import ModelConfig
from bimode.records import GenerationRequest, GenerationResult


class RLWorkers:
    """The fleet and the learner group of one run, and the weight updates between them. `loop` runs
    the driver's side.
    """

    def __init__(
        self, fleet: RolloutFleet, learner: LearnerGroup, sync: str, sync_timeout_s: float
    ) -> None:
        self.fleet, self.learner = fleet, learner
        self.loop = EventLoop("rollouts")
        transport = open_transport(sync, learner, sync_timeout_s)
        self.weights = WeightUpdates(fleet, transport, sync_timeout_s, self.loop)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        """Return results drawn under the live version, while no rollout loop drives the fleet."""
        self.weights.catch_up()
        return self.loop.run(generate(self.fleet, requests, self.weights.version))

    def close(self) -> None:
        """End every actor of the run."""
        self.fleet.close()
        self.learner.close()
        self.loop.close()

    def __enter__(self) -> RLWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_workers(
    model: ModelConfig,
    learner: LearnerSpec,
    *,
    rollout_workers: int,
    rollout_options: Mapping[str, Any],
    learner_options: Mapping[str, Any],
    sync: str,
    worker_timeout_s: float,
    sync_timeout_s: float,
) -> RLWorkers:
    """Start both sides at once, since an engine takes seconds to load; both are at version 0.

    If they cannot be connected, both sides are ended: the next attempt finds their GPUs free.
    """
    with ExitStack() as started:
        fleet = RolloutFleet(
            learner.model_dir,
            model,
            workers=rollout_workers,
            options=rollout_options,
            seed=learner.seed,
            sync=sync,
            timeout_s=worker_timeout_s,
        )
        started.callback(fleet.close)
        group = LearnerGroup(dict(learner_options), learner.config.workers, learner)
        started.callback(group.close)
        workers = RLWorkers(fleet, group, sync, sync_timeout_s)
        started.callback(workers.loop.close)
        if fleet.is_fixed:
            workers.weights.connect()
        started.pop_all()
    return workers
