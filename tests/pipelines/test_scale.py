"""How many rollout workers a run has: what was asked for from outside, or what its waits call
for.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bimode.config.recipe import Recipe
from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError
from bimode.rl.timeline import Waits
from bimode.storage.run_dir import FORMAT, StageDir, StageResult
from bimode.storage.versions import exclusive
from pipelines import bpo, bpo_steps, scale
from pipelines.scale import FILE, STEPS, WorkerTarget, ask, scale_run

HUNGRY, IDLE, FINE = Waits(1.0, learner=0.6), Waits(1.0, full=0.6), Waits(1.0)


def size_of(stage: Path, room: int = 99, **keys: int) -> WorkerTarget:
    """Of a run that starts with two workers, on nodes with `room` for so many."""
    return WorkerTarget(stage, BpoConfig(rollout_workers=2, **keys), lambda: room)


def record_step(size: WorkerTarget, waits: Waits, times: int = STEPS) -> int:
    for _ in range(times):
        size.record_step(waits)
    return size.wanted()


def test_a_run_grows_and_shrinks_by_its_waits(tmp_path: Path) -> None:
    size = size_of(tmp_path, rollout_workers_max=3)
    assert record_step(size, HUNGRY, STEPS - 1) == 2  # not at once
    assert record_step(size, HUNGRY, 1) == 3 and record_step(size, HUNGRY) == 3  # the most
    assert record_step(size, FINE) == 3
    assert [record_step(size, IDLE) for _ in range(3)] == [2, 1, 1]  # one stays


def test_without_a_maximum_it_does_what_it_is_told(tmp_path: Path) -> None:
    size = size_of(tmp_path / "bpo")
    (tmp_path / "bpo" / "ledger").mkdir(parents=True)
    assert record_step(size, HUNGRY, 3 * STEPS) == 2
    with exclusive(tmp_path):
        scale_run(tmp_path, 5)
    assert size.wanted() == 5


def test_a_run_has_no_more_workers_than_there_is_room_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those beyond would wait for a CPU for ever, and count as workers."""
    stage = tmp_path / "bpo"
    stage.mkdir()
    size = size_of(stage, room=3)
    ask(stage / FILE, 50)
    assert [size.wanted() for _ in range(3)] == [3, 3, 3]
    assert (
        capsys.readouterr().err.count(
            "50 rollout workers were asked for, the nodes have room for 3"
        )
        == 1
    )
    ask(stage / FILE, 1)
    assert size.wanted() == 1 and capsys.readouterr().err == ""
    assert record_step(size_of(tmp_path, room=2, rollout_workers_max=9), HUNGRY) == 2, (
        "nor does a run grow beyond it by itself"
    )


def test_a_run_that_has_ended_forgets_what_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, made = StageDir(tmp_path, "bpo"), StageResult((), {})
    monkeypatch.setattr(bpo_steps, "reserve_learner", lambda recipe: nullcontext({}))
    monkeypatch.setattr(bpo, "train", lambda *_: made)
    ask(stage.path / FILE, 5)
    assert bpo.execute(Recipe.of({"name": "t"}), stage, {}) is made
    assert size_of(stage.path).wanted() == 2


def test_a_run_that_goes_on_says_what_size_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bpo" / "ledger").mkdir(parents=True)
    size_of(tmp_path / "bpo")
    assert capsys.readouterr().err == ""
    with exclusive(tmp_path):
        scale_run(tmp_path, 5)
    capsys.readouterr()
    assert size_of(tmp_path / "bpo").wanted() == 5
    assert (
        "rollout workers: 5, as last asked for, instead of bpo.rollout_workers = 2"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("keys", "says"),
    [({"sync": "nccl"}, "nccl: fixes the workers"), ({"rollout_workers_max": 4}, "max = 4")],
)
def test_what_the_run_could_not_follow_is_refused(
    tmp_path: Path, keys: dict[str, object], says: str
) -> None:
    (tmp_path / "bpo" / "ledger").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": FORMAT, "recipe": {"bpo": keys}}))
    with exclusive(tmp_path), pytest.raises(ConfigError, match=says):
        scale_run(tmp_path, 5)
    assert not (tmp_path / "bpo" / "rollout_workers.json").exists()


def test_only_a_live_run_of_bpo_is_scaled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no bpo/ledger"):
        scale_run(tmp_path, 2)
    (tmp_path / "bpo" / "ledger").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ConfigError, match="no run is at work there"):
            scale_run(tmp_path, 2)
        with exclusive(tmp_path):
            pass  # its lock stays behind, and says nothing
    assert not (tmp_path / "bpo" / "rollout_workers.json").exists()
    (tmp_path / "bpo" / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="its BPO has ended"):
        scale_run(tmp_path, 2)


def test_a_problem_is_logged_once_and_scaling_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room on the nodes cannot be read twice; then the number that was asked for is taken."""
    monkeypatch.setattr(scale, "POLL_S", 0.01)
    answers: list[int | Exception] = [OSError("no node answers"), OSError("no node answers"), 9]

    def room() -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    class Rollouts:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def resize(self, target: int) -> None:
            self.sizes.append(target)

    target = WorkerTarget(tmp_path, BpoConfig(rollout_workers=2), room)
    rollouts: Any = Rollouts()
    with target.follow(rollouts):
        ask(tmp_path / FILE, 5)
        until = time.monotonic() + 10
        while 5 not in rollouts.sizes and time.monotonic() < until:
            time.sleep(0.01)
    assert rollouts.sizes[0] == 2 and rollouts.sizes[-1] == 5
    assert capsys.readouterr().err.count("no node answers") == 1
