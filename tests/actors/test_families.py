"""Learner against engine, for a family of each mechanism: M-RoPE with DeepStack, tiles, joined
tensors. The worker samples, the learner's packed trees give the same log-probabilities, at load and
after two live updates; a missed update is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.rollout.evaluator import weights_of
from bimode.models.prepare_model import prepare_base
from bimode.renderer import Renderer, load_model
from pipelines.prove import engine_gap, move
from tests.actors.conftest import start_worker
from tests.tiny_families import write

pytestmark = pytest.mark.ray
EQUAL, DIFFERENT = 1e-4, 0.1  # nats


class Pair:
    """A rollout worker, and the model that a learner would hold."""

    def __init__(self, ray: Any, actor: Any, path: Path) -> None:
        self.ray, self.actor, self.renderer = ray, actor, Renderer(path)
        self.model = load_model(path, torch.float32).eval()
        self.version = 0

    def gap(self) -> float:
        def generate(requests: Any) -> Any:
            return self.ray.get(self.actor.generate.remote(requests))

        return engine_gap(generate, self.model, self.renderer)

    def send(self) -> None:
        self.version += 1
        self.ray.get(self.actor.load_weights.remote(weights_of(self.model, self.version)))


@pytest.fixture(scope="module", params=["qwen3_vl", "internvl", "smolvlm"])
def pair(
    request: pytest.FixtureRequest, ray_local: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    root = tmp_path_factory.mktemp(request.param)
    path, _ = prepare_base(str(write(request.param, root / "model")), root / "base", 0)
    actor = start_worker(ray_local, request.param, path, max_model_len=1024)
    yield Pair(ray_local, actor, path)
    ray_local.kill(actor)


def test_learner_and_engine_agree_at_load_and_after_two_updates(pair: Pair) -> None:
    assert pair.gap() < EQUAL
    for update in range(2):
        move(pair.model, update)
        assert pair.gap() > DIFFERENT, "an update that was missed would not be seen"
        pair.send()
        assert pair.gap() < EQUAL
