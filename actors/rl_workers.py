"""The actor graph of BPO: rollout workers on one side, the learner group on the other, weights
between them.

Each side has its own resources and its own size; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.learner.group import LearnerGroup
from actors.ray_errors import ACTOR_DIED
from actors.rollout import generate
from actors.rollout.fleet import RolloutFleet
from actors.weights.update import WeightSync
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.config.recipe import ModelConfig
from bimode.errors import WorkerLostError
from bimode.records import GenerationRequest, GenerationResult


class ObjectStorePublisher:
    """`sync = "object_store"`: whoever drives the fleet fetches the weights
    (`actors.weights.update`).
    """

    def __init__(self, fleet: RolloutFleet) -> None:
        self.fleet = fleet

    def publish(self, version: int) -> None:
        """The learner's weights are policy `version`; nobody is waited for."""
        self.fleet.version = version


class TransferPublisher:
    """`sync = "nccl"` or `"ipc"`: the ranks push to the workers' GPUs, in `deadline_s` at most.

    Connects on construction, in `deadline_s` after every engine has loaded: an engine that fails is
    reported by its own error, which a rendezvous without it would hide. Raises as
    `RolloutFleet.wait_until_ready` and `LearnerGroup.open_senders`.
    """

    def __init__(
        self, fleet: RolloutFleet, learner: LearnerGroup, sync: str, deadline_s: float
    ) -> None:
        self.fleet, self.learner, self.deadline_s = fleet, learner, deadline_s
        fleet.wait_until_ready()
        learner.open_senders(fleet.actors, sync, deadline_s)

    def publish(self, version: int) -> None:
        """The learner's weights become policy `version` of every worker."""
        self.learner.send(version, self.deadline_s)
        self.fleet.assert_version(version)


class RLWorkers:
    """The fleet and the learner group of one run; the policy version that they agree on is
    `fleet.version`.
    """

    def __init__(
        self, fleet: RolloutFleet, learner: LearnerGroup, sync: str, sync_timeout_s: float
    ) -> None:
        self.fleet, self.learner, self.sync_timeout_s = fleet, learner, sync_timeout_s
        self._publisher = (
            ObjectStorePublisher(fleet)
            if sync == "object_store"
            else TransferPublisher(fleet, learner, sync, sync_timeout_s)
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        """Results drawn under the current version, while no loop drives the fleet."""
        self.catch_up()
        return generate.generate(self.fleet, requests)

    def catch_up(self) -> None:
        """Waits until every worker holds the current version, while no loop drives the fleet.
        Raises WorkerLostError for one that is gone or does not load, StaleWeightsError for one that
        gets no further for `sync_timeout_s`.
        """
        self.fleet.wait_until_ready()
        try:
            WeightSync(self.fleet, self.learner, self.sync_timeout_s).catch_up()
        except ACTOR_DIED as error:
            self.fleet.wait_until_ready()  # says who
            raise WorkerLostError(
                f"a rollout worker is gone that was to load version {self.fleet.version}"
            ) from error

    def publish(self, version: int) -> None:
        """Learner -> every worker: the weights after an update become policy `version`."""
        self._publisher.publish(version)

    def close(self) -> None:
        """Ends every actor of the graph."""
        self.fleet.close()
        self.learner.close()

    def __enter__(self) -> RLWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build_graph(
    model_dir: Path,
    model: ModelConfig,
    learner: LearnerConfig,
    optim: OptimConfig,
    *,
    rollout_workers: int,
    rollout_options: Mapping[str, Any],
    learner_options: Mapping[str, Any],
    sync: str,
    worker_timeout_s: float,
    sync_timeout_s: float,
    total_steps: int,
    with_reference: bool,
    seed: int,
) -> RLWorkers:
    """Starts both sides at once, since an engine takes seconds to load; the graph is at version 0.

    If they cannot be connected, both sides are ended: the next attempt finds their GPUs free.
    """
    with ExitStack() as started:
        fleet = RolloutFleet(
            model_dir,
            model,
            workers=rollout_workers,
            options=rollout_options,
            seed=seed,
            sync=sync,
            timeout_s=worker_timeout_s,
        )
        started.callback(fleet.close)
        group = LearnerGroup(
            dict(learner_options),
            learner.workers,
            model_dir=model_dir,
            learner=learner,
            optim=optim,
            total_steps=total_steps,
            dtype=model.dtype,
            seed=seed,
            with_reference=with_reference,
        )
        started.callback(group.close)
        graph = RLWorkers(fleet, group, sync, sync_timeout_s)
        started.pop_all()
    return graph
