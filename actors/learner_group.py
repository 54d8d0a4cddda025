"""BPO's learner: one `Learner` a rank, each in its own Ray actor, joined over gloo or nccl (DeepSpeed inside)."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors import parallel
from actors.learner import Learner, StepInfo
from bimode.config import LearnerConfig, OptimConfig
from bimode.losses import LossFn
from bimode.records import TrainingSample, WeightSnapshot


class LearnerRank:
    """One rank: meets the others, then passes every verb on to its `Learner`."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.learner: Learner

    def address(self) -> str:
        """``host:port`` of this node with a port that was free just now; asked of rank 0."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{host}:{probe.getsockname()[1]}"

    def start(
        self,
        address: str,
        model_dir: Path,
        learner: LearnerConfig,
        optim: OptimConfig,
        total_steps: int,
        dtype: str,
        seed: int,
        with_reference: bool,
    ) -> None:
        """Joins the group at `address` and loads the model."""
        parallel.join(self.rank, self.world, address)
        self.learner = Learner(
            model_dir, learner, optim, total_steps=total_steps, dtype=dtype, seed=seed, with_reference=with_reference
        )

    def update(self, samples: Sequence[TrainingSample], loss: LossFn, num_tokens: float) -> dict[str, float]:
        """Gradient of this rank's share; sums of the metrics."""
        return self.learner.forward_backward(samples, loss, num_tokens=num_tokens)

    def optim_step(self) -> StepInfo:
        """One update on every rank."""
        return self.learner.optim_step()

    def export_weights(self, version: int) -> WeightSnapshot:
        """The snapshot; without arrays on ranks other than 0."""
        return self.learner.export_weights(version)

    def save(self, path: Path) -> None:
        """Checkpoint."""
        self.learner.save(path)

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint."""
        self.learner.restore(path)

    def save_model(self, path: Path) -> None:
        """Plain Hugging Face directory."""
        self.learner.save_model(path)

    def node_id(self) -> str:
        """Ray's id of the node this rank sits on."""
        return str(ray.get_runtime_context().get_node_id())


class LearnerGroup:
    """All ranks behind the learner's verbs. `options` are the ray.remote options of one rank."""

    def __init__(
        self,
        options: Mapping[str, Any],
        num_workers: int,
        *,
        model_dir: Path,
        learner: LearnerConfig,
        optim: OptimConfig,
        total_steps: int,
        dtype: str,
        seed: int,
        with_reference: bool,
    ) -> None:
        remote = ray.remote(**options)(LearnerRank)
        self.ranks = [remote.remote(rank, num_workers) for rank in range(num_workers)]
        address = ray.get(self.ranks[0].address.remote())
        self.started = [
            rank.start.remote(address, model_dir, learner, optim, total_steps, dtype, seed, with_reference)
            for rank in self.ranks
        ]

    def update(self, samples: Sequence[TrainingSample], loss: LossFn, *, num_tokens: float) -> dict[str, float]:
        """Adds the gradient of all samples; metrics are summed over ranks. Surfaces the first rank's error."""
        self._wait_started()
        shares = split_by_tokens(samples, len(self.ranks))
        parts = ray.get(
            [rank.update.remote(share, loss, num_tokens) for rank, share in zip(self.ranks, shares, strict=True)]
        )
        keys = sorted({key for part in parts for key in part})
        return {key: sum(part.get(key, 0.0) for part in parts) for key in keys}

    def optim_step(self) -> StepInfo:
        """One update on every rank."""
        return self._all("optim_step")[0]

    def export_weights(self, version: int) -> Any:
        """Object reference of rank 0's snapshot: it never passes through the driver."""
        self._wait_started()
        return [rank.export_weights.remote(version) for rank in self.ranks][0]

    def save(self, path: Path) -> None:
        """Checkpoint of all ranks."""
        self._all("save", path)

    def restore(self, path: Path) -> None:
        """All ranks continue from a checkpoint."""
        self._all("restore", path)

    def save_model(self, path: Path) -> None:
        """Plain Hugging Face directory, written by rank 0."""
        self._all("save_model", path)

    def nodes(self) -> list[str]:
        """Node id of each rank."""
        return list(self._all("node_id"))

    def close(self) -> None:
        """Ends the actors."""
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = []

    def _all(self, verb: str, *arguments: Any) -> list[Any]:
        self._wait_started()
        return list(ray.get([getattr(rank, verb).remote(*arguments) for rank in self.ranks]))

    def _wait_started(self) -> None:
        if self.started:
            ray.get(self.started)
            self.started = []


def split_by_tokens(samples: Sequence[TrainingSample], parts: int) -> list[list[TrainingSample]]:
    """`samples` in `parts` lists of nearly equal tokens: longest first, each to the lightest list."""
    shares: list[list[TrainingSample]] = [[] for _ in range(parts)]
    load = [0] * parts
    for sample in sorted(samples, key=lambda s: -(len(s.prompt_ids) + len(s.token_ids_T))):
        lightest = load.index(min(load))
        shares[lightest].append(sample)
        load[lightest] += len(sample.prompt_ids) + len(sample.token_ids_T)
    return shares
