"""The actor graph of BPO: rollout workers on one side, the learner group on the other, weights between them.

Each side has its own resources and its own size; neither knows the other. Only this file makes plain classes remote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.learner_group import LearnerGroup
from bimode.config import ModelConfig
from bimode.errors import StaleWeightsError
from bimode.records import Completion, GenerationRequest
from bimode.sections import LearnerConfig, OptimConfig


class RolloutFleet:
    """Rollout workers behind two verbs: `generate` and `load_weights`.

    `options` are ray.remote options of one worker (num_cpus, num_gpus, resources).
    """

    def __init__(
        self, model_dir: Path, model: ModelConfig, *, workers: int, options: Mapping[str, Any], seed: int, sync: str
    ) -> None:
        from actors.rollout_worker import RolloutWorker

        remote = ray.remote(**options)(RolloutWorker)
        self.workers = [
            remote.remote(
                f"rollout-{i}",
                model_dir,
                max_model_len=model.max_model_len,
                dtype=model.dtype,
                seed=seed + i,
                sync=sync,
            )
            for i in range(workers)
        ]

    def generate(self, requests: Sequence[GenerationRequest], version: int) -> list[Completion]:
        """Completions in the order of `requests`. Raises StaleWeightsError if any was drawn under another version."""
        shares = [list(range(i, len(requests), len(self.workers))) for i in range(len(self.workers))]
        answers = ray.get(
            [worker.generate.remote([requests[i] for i in share]) for worker, share in zip(self.workers, shares, strict=True)]
        )
        by_request: dict[int, list[Completion]] = {}
        for share, completions in zip(shares, answers, strict=True):
            at = 0
            for i in share:
                by_request[i] = completions[at : at + requests[i].n]
                at += requests[i].n
        ordered = [c for i in range(len(requests)) for c in by_request[i]]
        stale = {v for c in ordered for v in c.versions_T} - {version}
        if stale:
            raise StaleWeightsError(f"asked for policy version {version}, got tokens of {sorted(stale)}")
        return ordered

    def load_weights(self, snapshot: Any, version: int) -> None:
        """Puts a snapshot (an object reference) into every worker. Raises StaleWeightsError if one is left behind."""
        _agree(ray.get([worker.load_weights.remote(snapshot) for worker in self.workers]), version)

    def expect(self, version: int) -> None:
        """Raises StaleWeightsError unless every worker is at `version`."""
        _agree(ray.get([worker.version.remote() for worker in self.workers]), version)

    def nodes(self) -> list[str]:
        """Ray node id of each worker."""
        return list(ray.get([worker.node_id.remote() for worker in self.workers]))

    def close(self) -> None:
        """Ends the workers and waits until their processes are gone."""
        for worker in self.workers:
            ray.kill(worker)
        self.workers = []


def _agree(held: Sequence[int], version: int) -> None:
    if set(held) != {version}:
        raise StaleWeightsError(f"published version {version}, workers hold {list(held)}")


class SnapshotPublisher:
    """`sync = "object_store"`: rank 0 puts one snapshot into the object store, and each worker loads it from there."""

    def __init__(self, fleet: RolloutFleet, learner: LearnerGroup) -> None:
        self.fleet, self.learner = fleet, learner

    def publish(self, version: int) -> None:
        """The learner's weights become policy `version` of every worker."""
        self.fleet.load_weights(self.learner.export_weights(version), version)


class TransferPublisher:
    """`sync = "nccl"` or `"ipc"`: the ranks push to the workers' GPUs. Connects on construction."""

    def __init__(self, fleet: RolloutFleet, learner: LearnerGroup, sync: str) -> None:
        self.fleet, self.learner = fleet, learner
        learner.open_senders(fleet.workers, sync)

    def publish(self, version: int) -> None:
        """The learner's weights become policy `version` of every worker."""
        self.learner.send(version)
        self.fleet.expect(version)


class Graph:
    """The fleet and the learner group of one run, and the policy version they agree on."""

    def __init__(self, fleet: RolloutFleet, learner: LearnerGroup, publisher: SnapshotPublisher | TransferPublisher) -> None:
        self.fleet, self.learner, self._publisher = fleet, learner, publisher
        self.version = 0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Completions drawn under the current version."""
        return self.fleet.generate(requests, self.version)

    def publish(self, version: int) -> None:
        """Learner -> every worker: the weights after an update become policy `version`."""
        self._publisher.publish(version)
        self.version = version

    def close(self) -> None:
        """Ends every actor of the graph."""
        self.fleet.close()
        self.learner.close()

    def __enter__(self) -> Graph:
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
    total_steps: int,
    with_reference: bool,
    seed: int,
) -> Graph:
    """Starts both sides at once (an engine takes seconds to load) and returns the graph at version 0."""
    fleet = RolloutFleet(model_dir, model, workers=rollout_workers, options=rollout_options, seed=seed, sync=sync)
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
    if sync == "object_store":
        return Graph(fleet, group, SnapshotPublisher(fleet, group))
    return Graph(fleet, group, TransferPublisher(fleet, group, sync))
