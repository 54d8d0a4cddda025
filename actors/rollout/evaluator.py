"""Generation for evaluation: one fleet of rollout workers that loads one model after another.

An engine takes seconds to start, so models of one shape and tokenizer follow each other by weight
update; others, and those too large to pass through the object store, get a new fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from actors.event_loop import EventLoop
from actors.rollout.fleet import RolloutFleet, WorkerFailedError, WorkerHandle
from actors.rollout.generate import generate
from bimode.config.recipe import ModelConfig
from bimode.records import GenerationRequest, GenerationResult
from bimode.renderer import as_saved, load_model
from bimode.storage.run_dir import digest_without_weights
from bimode.storage.weights import WeightBucket

CHUNK = (
    128  # requests a worker is given at once: a full engine batch, and a progress bar that moves
)
MAX_SWAP_BYTES = 1 << 30


class Evaluator:
    """Answers requests with the model that was opened last. `options` are Ray's for one worker. A
    worker that dies or is silent for `timeout_s` is replaced and its requests are retried;
    `on_event` gets a line about it.
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
        self._loop = EventLoop("evaluation")
        self._fleet: RolloutFleet | None = None
        self._model_dir = Path()
        self._shape = ""
        self._version = 0

    def open(self, model_dir: Path) -> None:
        """Load the model in `model_dir`; one of the same shape and tokenizer arrives as a weight
        update.
        """
        self._model_dir = model_dir
        shape = digest_without_weights(model_dir)
        is_alike = self._fleet is not None and shape == self._shape
        if is_alike and _weight_bytes(model_dir) <= MAX_SWAP_BYTES:
            self._version += 1
            self._loop.run(self._load())
            return
        self._close_fleet()
        self._fleet = RolloutFleet(
            model_dir,
            self.model,
            workers=self.num_workers,
            options=self.options,
            seed=self.seed,
            sync="object_store",
            timeout_s=self.timeout_s,
        )
        self._shape, self._version = shape, 0

    def generate(
        self, requests: Sequence[GenerationRequest], on_done: Callable[[int], None] = lambda _: None
    ) -> list[GenerationResult]:
        """Return results in the order of `requests`; `on_done` gets the size of each finished
        chunk.
        """
        if self._fleet is None:
            raise RuntimeError("open a model first")
        results: list[GenerationResult] = []
        size = CHUNK * self.num_workers
        for start in range(0, len(requests), size):
            chunk = requests[start : start + size]
            done = generate(self._fleet, chunk, self._version, self._replace)
            results += self._loop.run(done)
            on_done(len(chunk))
        return results

    async def _load(self) -> None:
        assert self._fleet is not None
        whole = ray.put(weights_in(self._model_dir, self._version))
        await asyncio.gather(*(worker.load_weights(whole) for worker in self._fleet.workers))

    async def _replace(self, worker: WorkerHandle, error: WorkerFailedError) -> WorkerHandle:
        assert self._fleet is not None
        successor = self._fleet.replace(worker)
        self.on_event(f"{error}: {successor.name} takes its place and is asked the same")
        if self._version:
            await successor.load_weights(ray.put(weights_in(self._model_dir, self._version)))
        return successor

    def close(self) -> None:
        """End the workers."""
        self._close_fleet()
        self._loop.close()

    def _close_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
        self._fleet = None

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def weights_in(model_dir: Path, version: int) -> WeightBucket:
    """Return the weights of the model in `model_dir` as the learner would send them."""
    import torch

    return weights_of(load_model(model_dir, torch.float32), version)


def weights_of(model: Any, version: int) -> WeightBucket:
    """Return the float32 weights of `model`, under the names of its files."""
    weights = as_saved(model, {name: p.detach() for name, p in model.named_parameters()})
    arrays = [weight.contiguous().numpy() for weight in weights.values()]
    return WeightBucket.of(version, tuple(weights), arrays)


def _weight_bytes(model_dir: Path) -> int:
    return sum(p.stat().st_size for p in model_dir.glob("*.safetensors"))
