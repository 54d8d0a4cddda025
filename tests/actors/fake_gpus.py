"""A Ray that offers two GPUs on a machine without any, and what its actors report."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.learner.group import LearnerGroup
from actors.learner.learner import LearnerSpec
from actors.rollout.fleet import RolloutFleet
from bimode.config.recipe import ClusterConfig, LearnerConfig, ModelConfig, OptimConfig
from bimode.errors import BimodeError
from cluster.environment import worker_env
from cluster.placement import learner_role, reserved, rollout_role
from cluster.session import start_local
from pipelines.failure import as_user_error
from pipelines.harness import check_gpus
from pipelines.serve import _has_gpus

REPO = Path(__file__).resolve().parents[2]
CLUSTER = ClusterConfig(rollout_gpus=0.5, learner_gpus=1.0)
MIXED = ClusterConfig(rollout_gpus=1.0)


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def line_of(start: Any) -> str:
    """What a user reads when `start` fails, and the exit code; empty if it does not."""
    try:
        start()
    except (BimodeError, RayError) as error:
        told = as_user_error("bpo", Path("run"), error)
        return f"{told.exit_code} {told}"
    return ""


def fleet(model_dir: Path) -> None:
    settings = {"options": rollout_role(CLUSTER, 1).options(), "seed": 0, "sync": "object_store"}
    asyncio.run(RolloutFleet(model_dir, ModelConfig(), workers=1, **settings).ready())


def group(model_dir: Path) -> None:
    with reserved(learner_role(CLUSTER, 1), print) as options:
        made = LearnerGroup(
            options,
            1,
            LearnerSpec(model_dir, LearnerConfig(), OptimConfig(), total_steps=1, dtype="float32"),
        )
        try:
            made.ready()
        finally:
            made.close()


def main(model_dir: Path) -> None:
    environment = worker_env(gpu=True) | {"PYTHONPATH": str(REPO)}
    start_local(environment, num_cpus=4, num_gpus=2, object_store_memory=100 << 20)
    hidden = ray.remote(visible).options(**learner_role(MIXED, 1).options()).remote()
    found = {
        "before": line_of(lambda: check_gpus("bpo", [rollout_role(CLUSTER, 1)])),
        "served": line_of(lambda: _has_gpus(1)),
        "engine": line_of(lambda: fleet(model_dir)),
        "rank": line_of(lambda: group(model_dir)),
        "hidden": ray.get(hidden),
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
