"""Generation for evaluation: one fleet of rollout workers that is handed one model after another.

An engine takes seconds to start, so models of one shape and tokenizer follow each other by weight
update; others, and those too large to pass through the object store, get a new fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.rollout import generate
from actors.rollout.fleet import RolloutFleet, WorkerHandle
from bimode.config.recipe import ModelConfig
from bimode.records import GenerationRequest, GenerationResult
from bimode.renderer import load_model
from bimode.storage.run_dir import digest_without_weights
from bimode.storage.weights import WeightBucket

CHUNK = (
    128  # requests a worker is given at once: a full engine batch, and a progress bar that moves
)
MAX_SWAP_BYTES = 1 << 30


class Evaluator:
    """Answers requests with the model that was opened last. `options` are Ray's for one worker.

    A worker that dies, or is silent for `timeout_s`, is replaced, of which `say` is told, and its
    share is asked again.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        workers: int,
        options: Mapping[str, Any],
        seed: int,
        timeout_s: float,
        on_event: Callable[[str], None],
    ) -> None:
        self.model, self.num_workers, self.options, self.seed = model, workers, options, seed
        self.timeout_s, self.on_event = timeout_s, on_event
        self._fleet: RolloutFleet | None = None
        self._opened = Path()
        self._shape = ""

    def open(self, model_dir: Path) -> None:
        """Makes the model in `model_dir` the one that answers; one of the same shape and tokenizer
        by a weight update.
        """
        self._opened = model_dir
        shape = digest_without_weights(model_dir)
        if (
            self._fleet is not None
            and shape == self._shape
            and _weight_bytes(model_dir) <= MAX_SWAP_BYTES
        ):
            self._fleet.load_weights(weights_of(model_dir, self._fleet.version + 1))
            return
        self.close()
        self._fleet = RolloutFleet(
            model_dir,
            self.model,
            workers=self.num_workers,
            options=self.options,
            seed=self.seed,
            sync="object_store",
            timeout_s=self.timeout_s,
        )
        self._shape = shape

    def generate(
        self, requests: Sequence[GenerationRequest], on_done: Callable[[int], None] = lambda _: None
    ) -> list[GenerationResult]:
        """Results in the order of `requests`; `on_done` hears the size of each finished chunk."""
        if self._fleet is None:
            raise RuntimeError("open a model first")
        results: list[GenerationResult] = []
        size = CHUNK * self.num_workers
        for start in range(0, len(requests), size):
            chunk = requests[start : start + size]
            results += generate.generate(self._fleet, chunk, self._replaced)
            on_done(len(chunk))
        return results

    def _replaced(self, member: WorkerHandle, why: str) -> WorkerHandle:
        assert self._fleet is not None
        successor = self._fleet.replace(member)
        self.on_event(
            f"{member.name} {why}: {successor.name} takes its place and is asked the same"
        )
        if version := self._fleet.version:
            successor.call("load_weights", ray.put(weights_of(self._opened, version)))
        return successor

    def close(self) -> None:
        """Ends the workers."""
        if self._fleet is not None:
            self._fleet.close()
        self._fleet = None

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def weights_of(model_dir: Path, version: int) -> WeightBucket:
    """The weights of `model_dir` as the learner would send them."""
    import torch

    named = list(load_model(model_dir, torch.float32).named_parameters())
    return WeightBucket.of(version, [n for n, _ in named], [p.detach().numpy() for _, p in named])


def _weight_bytes(model_dir: Path) -> int:
    return sum(p.stat().st_size for p in model_dir.glob("*.safetensors"))
