"""Rollout workers for all tests of this folder: real vLLM engines, each in a Ray actor of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def rollout_actor(ray_local: Any, tiny_llava: Path) -> Iterator[Any]:
    """A worker on the tiny LLaVA. Tests that change weights first load the ones they start from."""
    actor = _start(ray_local, "w0", tiny_llava)
    yield actor
    ray_local.kill(actor)


@pytest.fixture(scope="session")
def text_actor(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """A worker on the text model."""
    actor = _start(ray_local, "t0", text_model)
    yield actor
    ray_local.kill(actor)


def _start(ray_local: Any, name: str, model_dir: Path) -> Any:
    from actors.rollout_worker import RolloutWorker

    remote = ray_local.remote(RolloutWorker).options(num_cpus=0)
    return remote.remote(name, model_dir, max_model_len=128, dtype="float32", seed=0, sync="object_store")
