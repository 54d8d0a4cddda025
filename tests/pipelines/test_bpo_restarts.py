"""After which losses BPO starts again from the last sealed checkpoint, and how often."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import BimodeError, DivergedError, LearnerLostError, WorkerLostError
from bimode.storage.run_dir import StageDir, StageResult
from pipelines import bpo, bpo_steps

TWICE = "bpo.learner_restarts=2"
NCCL = ("bpo.sync=nccl", "cluster.rollout_gpus=1", "cluster.learner_gpus=1", TWICE)
DONE = StageResult(outputs=("model",), counts={})


class Loop:
    """The training loop, which ends with `losses` in turn and then finishes."""

    def __init__(self, *losses: BimodeError) -> None:
        self.losses, self.begun = losses, 0

    def train(self, *_: Any) -> StageResult:
        self.begun += 1
        if self.begun <= len(self.losses):
            raise self.losses[self.begun - 1]
        return DONE

    def run(
        self, overrides: tuple[str, ...], run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> StageResult:
        monkeypatch.setattr(bpo, "train", self.train)
        monkeypatch.setattr(bpo_steps, "reserve_learner", lambda recipe: nullcontext({}))
        return bpo.execute(Recipe.of({"name": "t"}, overrides), StageDir(run, "bpo"), {})


def test_a_worker_that_cannot_be_replaced_costs_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nccl the group that carries weights is formed once: it ends with a dead worker."""
    loop = Loop(WorkerLostError("rollout-1 is gone"), LearnerLostError("a rank died"))
    assert loop.run(NCCL, tmp_path, monkeypatch) is DONE
    assert loop.begun == 3
    said = capsys.readouterr()
    line = "rollout-1 is gone; starting again from the last sealed checkpoint (1 restarts left)"
    assert line in said.err + said.out


def test_restarts_are_counted_over_both_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(WorkerLostError("first"), LearnerLostError("second"), WorkerLostError("third"))
    with pytest.raises(WorkerLostError, match="third"):
        loop.run(NCCL, tmp_path, monkeypatch)
    assert loop.begun == 3


def test_a_worker_that_could_have_been_replaced_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the object store the loop replaces workers; one that it could not would not come back."""
    loop = Loop(WorkerLostError("rollout-1 does not load"))
    with pytest.raises(WorkerLostError, match="does not load"):
        loop.run((TWICE,), tmp_path, monkeypatch)
    assert loop.begun == 1


def test_a_loss_that_is_not_finite_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(DivergedError("gradient norm is nan"))
    with pytest.raises(DivergedError):
        loop.run(NCCL, tmp_path, monkeypatch)
    assert loop.begun == 1
