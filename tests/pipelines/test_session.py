"""A run on real Ray, from the outside: it seals, skips, starts anew when changed, and leaves
nothing behind on Ctrl-C.

Without Ray: what is sealed stays where it is until nothing can be refused any more, and comes back
when its recipe does.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from bimode.config.recipe import AnnealConfig, ClusterConfig, Recipe
from bimode.errors import ConfigError
from bimode.storage.run_dir import StageDir, StageResult
from pipelines import anneal, harness
from pipelines.__main__ import exit_code
from pipelines.harness import Session, _run_one
from pipelines.progress import Bar, counted, if_slow, kept_first, rate, track, until_loaded

sys.path.insert(0, str(Path(__file__).parent))
from processes import Running, command

TOY = str(Path(__file__).parent / "toy_stage.py")


@pytest.fixture()
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "toy.toml"
    path.write_text('name = "toy"\n')
    return str(path)


def sealed(run: Path, work: dict[str, str]) -> StageDir:
    """A stage folder in which `work` was done."""
    stage = StageDir(run, "toy")
    stage.claim(work)
    (stage.path / "out.txt").write_text(work["config"])
    stage.seal(work, {}, ("out.txt",), {"rows": 1}, 0.0)
    return stage


class Refused(Session):
    """No Ray to be had."""

    def ensure(self, stage: str) -> None:
        """What `connect` says of a cluster that does not answer."""
        raise ConfigError("RAY_ADDRESS", "x", "no cluster")


@pytest.mark.parametrize("refuses", ["check", "connect"])
def test_what_is_refused_leaves_sealed_work_in_its_place(tmp_path: Path, refuses: str) -> None:
    """A mistake in a changed recipe must not cost the work of the one before, nor be written down
    as what ran.
    """
    stage = sealed(tmp_path, {"config": "old"})

    def check(*_: object) -> None:
        if refuses == "check":
            raise ConfigError("toy", 1, "no")

    module = ModuleType("toy")
    module.config, module.check = lambda recipe: {"config": "new"}, check  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="toy = 1" if refuses == "check" else "no cluster"):
        _run_one(module, stage, Recipe.of({"name": "t"}), {}, Refused(ClusterConfig()))
    assert stage.is_current({"config": "old"}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


class Ready(Session):
    """Ray, as far as a stage without actors needs it."""

    def ensure(self, stage: str) -> None:
        """It is there."""


def test_a_stage_is_sealed_with_what_it_began_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that is published elsewhere while a stage reads the data before is not what the stage
    has read.
    """
    monkeypatch.setattr(harness, "node_resources", list)
    data, made = tmp_path / "data.txt", list[str]()
    data.write_text("old")

    def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
        made.append(inputs["data"].read_text())
        data.write_text("new")
        (stage.path / "out.txt").write_text(made[-1])
        return StageResult(outputs=("out.txt",), counts={})

    module = ModuleType("toy")
    module.config, module.execute = lambda recipe: {}, execute  # type: ignore[attr-defined]
    for _ in range(3):
        _run_one(
            module,
            StageDir(tmp_path / "run", "toy"),
            Recipe.of({"name": "t"}),
            {"data": data},
            Ready(ClusterConfig()),
        )
    assert made == ["old", "new"] and (tmp_path / "run" / "toy" / "out.txt").read_text() == "new"


def test_replaced_work_comes_back_with_its_recipe(tmp_path: Path) -> None:
    old, new = {"config": "old"}, {"config": "new"}
    stage = sealed(tmp_path, old)
    assert "starts anew" in stage.claim(new)
    assert (tmp_path / "replaced" / "toy-1" / "out.txt").read_text() == "old"
    assert stage.claim(new) == "", "nothing is there but the claim"
    back = stage.claim(old)
    assert back.endswith(f"is back from {tmp_path}/replaced/toy-1") and stage.is_current(old, {})
    stage.claim(new)
    (stage.path / "half.txt").write_text("new")
    assert "going on from unfinished work" in stage.claim(new)
    assert "what was there is in" in stage.claim(old) and stage.is_current(old, {})
    stage.claim({"config": "third"})
    assert "is back from" in stage.claim(new) and (stage.path / "half.txt").read_text() == "new"
    assert {path.name for path in (tmp_path / "replaced").iterdir()} == {"toy-1"}, (
        "no folder is kept twice or lost"
    )


def test_what_starts_anew_says_which_key_has_changed(tmp_path: Path) -> None:
    """`config or inputs changed` left a mistyped --set, after a day's work was put aside, to be
    found by comparing two files.
    """
    stage = StageDir(tmp_path, "toy")
    settings = {"toy": {"steps": 2, "optim": {"lr": 0.1}}, "seed": 0}
    stage.claim({"config": "a", "inputs": {"data": "x"}}, settings)
    (stage.path / "out.txt").write_text("half")
    other = {"toy": {"steps": 2, "optim": {"lr": 0.2}}, "seed": 0}
    said = stage.claim({"config": "b", "inputs": {"data": "y"}}, other)
    assert said.startswith(
        "toy: toy.optim.lr (0.1, now 0.2), input data changed; starts anew, the earlier work is in"
    )


def test_a_wait_is_said_once_before_it_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray and engines take many seconds to start, in which a silent terminal looks like one that
    hangs.
    """
    monkeypatch.setattr(harness, "connect", lambda config: nullcontext())
    with Session(ClusterConfig()) as session:
        session.ensure("curate")
        session.ensure("anneal")
    assert capsys.readouterr().err == "curate: starting Ray\n"
    monkeypatch.setenv("RAY_ADDRESS", "x:1")
    with Session(ClusterConfig()) as session:
        session.ensure("bpo")
    assert capsys.readouterr().err == "bpo: joining the Ray cluster\n"
    bar = Bar("curate", 20, "row")
    for kept in (3, 10):  # of 10: an engine is loaded only where something is missing
        advance = until_loaded(bar, 10, f"loading {counted(2, 'engine')}")
        advance(kept)
        advance(0)
    assert capsys.readouterr().err == "loading 2 engines\n" and counted(1, "engine") == "1 engine"
    assert (bar.done, bar.num_kept) == (13, 13)


def test_what_was_there_before_is_told_from_what_is_new(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it in a rate, and neither is the time in which models loaded: 16 in the 8 s after the
    first 64 are 2 a second.
    """
    now = 1000.0
    monkeypatch.setattr("pipelines.progress.time.monotonic", lambda: now)
    with track("curate: rollouts", 3472, "rollout") as bar:
        advance = until_loaded(bar, 3472, "loading")
        for units, seconds in ((3392, 1.0), (64, 31.0), (16, 8.0)):
            now += seconds
            advance(units)
    [_, *lines] = capsys.readouterr().err.splitlines()
    assert lines == [
        "curate: rollouts: 3456/3472 rollout  32 s  64 new, 3,392 kept from before",
        "curate: rollouts: 3472/3472 rollout  40 s  2.0 rollout/s  80 new, 3,392 kept from before",
    ]
    with track("curate: read", 2, "shard") as bar:
        advance = kept_first(bar)
        advance(0)
        advance(2)
    assert "new" not in capsys.readouterr().err
    with track("curate: rollouts", 0, "rollout"):
        pass
    assert capsys.readouterr().err == "", "0/0 says nothing"


def test_what_takes_long_is_announced_and_what_does_not_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seven seconds of imports look like a program that hangs; a stage that is skipped needs no
    more than its own line.
    """
    with if_slow("quick", after=30.0):
        pass
    with if_slow("slow", after=0.01):
        time.sleep(0.3)
    assert capsys.readouterr().err == "slow\n"


def test_a_slow_rate_is_seconds_a_unit() -> None:
    """`0.0 step/s` says nothing, and neither does a rate over no time at all."""
    assert [rate(2, 4, "step"), rate(8, 4, "step"), rate(1, 250, "step")] == [
        "2.0 s/step",
        "2.0 step/s",
        "250.0 s/step",
    ]
    assert [rate(0, 9, "step"), rate(3, 0.01, "shard")] == ["", ""]


def test_annealing_that_goes_on_counts_the_steps_before_as_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill after step 3 goes on from the checkpoint of step 2: the third is done again, and the
    first two are in no rate.
    """
    from actors.learner.annealer import AnnealJob, resume_log

    job = AnnealJob(tmp_path, tmp_path, AnnealConfig(), "float32", 0)
    line = json.dumps({"loss": 1.5, "tokens_per_s": 10.0}) + "\n"
    job.metrics.write_text(3 * line)
    (job.checkpoints / "step-000002").mkdir(parents=True)
    assert resume_log(job) == 2 and job.metrics.read_text() == 2 * line
    with anneal.followed(job.metrics, steps=4, start=2), job.metrics.open("a") as file:
        file.write(2 * line)
    [said] = capsys.readouterr().err.splitlines()
    assert (
        re.sub(r"  \d+ s", "", said)
        == "anneal: 4/4 step  2 new, 2 kept from before  loss 1.500, 10 tokens/s"
    )


def test_a_disk_without_room_for_the_lock_is_one_line(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a traceback: the lock was written before anything was watched. No other run there
    loses what it is writing.
    """
    run = tmp_path / "run"
    others = run / "bpo" / ".partial-model"
    others.mkdir(parents=True)

    def full() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bimode.storage.versions.socket.gethostname", full)
    assert exit_code(["curate", recipe, "--out", str(run)]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: start: no space left on the disk of {run}: free some (")
    assert line.count("\n") == 1 and others.is_dir()


@pytest.mark.ray
def test_stage_is_sealed_then_skipped_then_redone(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (TOY, "ok", recipe, "--out", str(run))
    first = command(*words)
    assert first.returncode == 0, first.stderr
    assert first.stderr.index("toy: starting Ray") < first.stderr.index("toy: started")
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["stages"]["toy"]["counts"] == {"rows": 1}
        and manifest["versions"]["ray"]
        and manifest["code"]
    )
    second = command(*words)
    assert second.returncode == 0 and "toy: unchanged, skipped" in second.stderr
    third = command(*words, "--seed", "3")
    assert third.returncode == 0 and "toy: seed (0, now 3) changed; starts anew" in third.stderr
    assert (run / "replaced" / "toy-1" / "out.txt").is_file() and (
        run / "toy" / "out.txt"
    ).is_file()
    assert json.loads((run / "manifest.json").read_text())["run"] == manifest["run"]
    fourth = command(*words)
    assert (
        fourth.returncode == 0
        and "is back from" in fourth.stderr
        and "toy: started" not in fourth.stderr
    )


@pytest.mark.ray
def test_starved_worker_is_one_line_and_the_same_command_goes_on(
    recipe: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    failed = command(TOY, "starved", recipe, "--out", str(run))
    assert failed.returncode == 1
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: toy: no rows left (") and "Traceback" not in failed.stderr
    assert (run / "toy" / "partial.txt").is_file()
    again = command(TOY, "ok", recipe, "--out", str(run))
    assert again.returncode == 0 and "going on from unfinished work" in again.stderr


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("sleep", Running.interrupt),
        ("sleep", Running.terminate),
        ("sleep", Running.hang_up),
        ("train", Running.interrupt),
    ],
)
def test_ctrl_c_sigterm_and_sighup_leave_no_process(
    recipe: str, tmp_path: Path, end: Callable[[Running], int], kind: str
) -> None:
    """Under Ray Train too, whose own answer to Ctrl-C is to exit with 1 and to say nothing."""
    run = tmp_path / "run"
    started = run / "toy" / "started"
    with Running((TOY, kind, recipe, "--out", str(run)), tmp_path / "log") as running:
        running.wait_until(lambda: started.is_file() and started.read_text() != "", timeout=90)
        assert end(running) == 130
        assert any(p.pid == int(started.read_text()) for p in running.tree), (
            "the stage's own child was not seen"
        )
        assert running.left() == []
        assert not psutil.pid_exists(int(started.read_text()))
    said = (tmp_path / "log").read_text()
    assert (
        said.endswith("error: interrupted: nothing is left running; the same command continues\n")
        and "***" not in said
    )
