"""Recipes for GPUs that could not work, or would be computed wrongly, are refused by name."""

from __future__ import annotations

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError

ONE_WORKER, TWO_RANKS = "bpo.rollout_workers=1", "bpo.learner.workers=2"
ONE_EACH = (ONE_WORKER, "bpo.learner.workers=1")
HALVES = ("cluster.rollout_gpus=0.5", "cluster.learner_gpus=0.5")
WHOLE = ("cluster.rollout_gpus=1", "cluster.learner_gpus=1")
BFLOAT16 = "model.dtype=bfloat16"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("cluster.rollout_gpus=2",), "cluster.rollout_gpus = 2.0: an engine and a learner"),
        (("cluster.learner_gpus=1.5",), "cluster.learner_gpus = 1.5: an engine and a learner"),
        (("bpo.sync=ipc", *HALVES), "bpo.sync = ipc: needs one learner rank and one rollout"),
        (
            ("bpo.sync=ipc", *HALVES, ONE_WORKER, TWO_RANKS),
            "bpo.sync = ipc: needs one learner rank",
        ),
        (("bpo.sync=ipc", *WHOLE, *ONE_EACH), "bpo.sync = ipc: needs both on one GPU; set"),
        ((BFLOAT16, "bpo.learner.zero_stage=0"), "bpo.learner.zero_stage = 0: would sum"),
        ((BFLOAT16, "anneal.learner.zero_stage=0"), "anneal.learner.zero_stage = 0: would sum"),
    ],
)
def test_what_cannot_work_on_gpus_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        Recipe.of({"name": "t"}, overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        WHOLE,
        ("bpo.sync=nccl", *WHOLE, "bpo.learner.workers=2"),
        ("bpo.sync=ipc", *HALVES, *ONE_EACH),
        ("bpo.learner.zero_stage=0",),
        (BFLOAT16, "bpo.learner.zero_stage=0", "bpo.learner.engine=torch"),
        (BFLOAT16, "bpo.learner.zero_stage=1"),
    ],
)
def test_what_stands_beside_it_is_accepted(overrides: tuple[str, ...]) -> None:
    assert Recipe.of({"name": "t"}, overrides).name == "t"


@pytest.mark.parametrize(
    ("overrides", "transport"),
    [
        (WHOLE, "nccl"),
        ((*WHOLE, "bpo.rollout_workers_max=4"), "object_store"),
        (HALVES, "auto"),
        (("cluster.rollout_gpus=1",), "auto"),
        ((*HALVES, "bpo.sync=ipc", "bpo.rollout_workers=1"), "ipc"),
    ],
)
def test_auto_is_nccl_between_whole_gpus_alone(overrides: tuple[str, ...], transport: str) -> None:
    """Two ranks of NCCL on one device end in an error of CUDA."""
    assert Recipe.of({"name": "t"}, overrides, None).transport == transport
