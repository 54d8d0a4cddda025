"""What BPO writes down of a step: the alarms it begins, once, also over a resume; and means by mode
and level.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bimode.errors import LedgerError
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup
from bimode.rl.audit import audit
from bimode.rl.ledger import Ledger, State
from bimode.rl.scheduler import ScoredGroup
from bimode.storage.checkpoints import (
    checkpoint_path,
    checkpoints,
    inventory,
    partial_path,
    publish,
)
from pipelines.bpo_log import RunLog

NAN = float("nan")


def group() -> RolloutGroup:
    """One easy question that both modes answer."""
    prompt = Prompt("q", "", (), "4", "int", "{}", "sums", "easy")
    texts = {Mode.THINKING: "\n2 + 2\n</think>\n\n4", Mode.NON_THINKING: "\n\n</think>\n\n4"}
    completions = tuple(
        Completion("q", mode, (1,), (2, 3), 1, (NAN, -0.5), (0, 0), text, True, "w")
        for mode, text in texts.items()
    )
    return RolloutGroup(prompt, completions, (1.0, 1.0))


PROBES = [
    Completion("q", Mode.AUTO, (1,), (2,), 0, (-0.1,), (0,), "\n", False, "w")
]  # it thinks, always
DRAWN = ScoredGroup(0, group(), tuple(PROBES))
LEARNED = {
    "loss": 0.5,
    "kl": 0.1,
    "learner": {"thinking": {"easy": {"kl": 0.1, "decision_entropy": 0.3}}},
}


def margin(step: int) -> float:
    """Of a recipe without `bpo.margin_final`."""
    return 0.15


class Restored:
    """A graph that goes on from a checkpoint."""

    def __init__(self) -> None:
        self.learner = self

    def restore(self, path: Path) -> None:
        self.restored = path.name


def test_an_alarm_is_written_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, margin)
    for step in range(6):
        log.step(step, [DRAWN], LEARNED)
    lines = [json.loads(line) for line in log.metrics.read_text().splitlines()]
    assert [len(line["alarms"]) for line in lines] == [0, 0, 0, 0, 1, 0]
    [alarm] = lines[4]["alarms"]
    assert (alarm["step"], alarm["kind"], alarm["mode"]) == (4, "choice", "thinking")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"bpo: ALARM at step 4, thinking mode: {alarm['says']}"]
    assert lines[0]["kl"] == 0.1 and lines[0]["learner"] == LEARNED["learner"]

    checkpoint_path(tmp_path / "checkpoints", 6).mkdir(parents=True)
    Ledger(tmp_path / "ledger").seal(6, inventory(checkpoint_path(tmp_path / "checkpoints", 6)))
    again = RunLog(tmp_path, margin)
    assert again.resume(Restored(), Ledger(tmp_path / "ledger")) == 6  # type: ignore[arg-type]
    again.step(6, [DRAWN], LEARNED)
    assert json.loads(again.metrics.read_text().splitlines()[6])["alarms"] == []
    assert capsys.readouterr().err == ""


def test_a_choice_that_collapses_is_seen_on_questions_without_levels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of one's own seldom have a level; the log once held no decision of theirs, and no alarm
    could ring.
    """
    scored = replace(
        DRAWN, group=replace(DRAWN.group, prompt=replace(DRAWN.group.prompt, level=""))
    )
    log = RunLog(tmp_path, margin)
    assert [log.step(step, [scored], LEARNED) for step in range(5)][
        -1
    ] == "reward 1.00, think all 1.00"
    lines = [json.loads(line) for line in log.metrics.read_text().splitlines()]
    assert lines[0]["decision"] == {"all": 1.0} and [len(line["alarms"]) for line in lines] == [
        0,
        0,
        0,
        0,
        1,
    ]
    assert "ALARM at step 4, thinking mode" in capsys.readouterr().err


def test_alarms_go_by_the_margin_of_their_step(tmp_path: Path) -> None:
    """Thinking is right more often by 1: enough at first, and too little at the end, as for the
    credit.
    """
    only_thinking = replace(DRAWN, group=replace(DRAWN.group, rewards_G=(1.0, 0.0)))
    log = RunLog(tmp_path, lambda step: 0.5 if step < 6 else 1.5)
    for step in range(7):
        log.step(step, [only_thinking], LEARNED)
    lines = [json.loads(line) for line in log.metrics.read_text().splitlines()]
    assert [[alarm["kind"] for alarm in line["alarms"]] for line in lines] == [
        [],
        [],
        [],
        [],
        [],
        [],
        ["choice"],
    ]


class Saving(Restored):
    """A graph that saves as the learner does."""

    def save(self, path: Path) -> None:
        (partial_path(path) / "deepspeed").mkdir(parents=True)
        (partial_path(path) / "deepspeed" / "rank0.pt").write_text("weights")
        publish(path, 2)


def test_what_a_seal_counts_is_on_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the seal may outlive what it sealed, when the power fails: the run could go on from no
    checkpoint, nor be proven.
    """
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    log, ledger = RunLog(tmp_path, margin), Ledger(tmp_path / "ledger")
    log.step(0, [DRAWN], LEARNED)
    log.checkpoint(Saving(), ledger)  # type: ignore[arg-type]
    weights = ["rank0.pt", "deepspeed", ".partial-step-000001", "checkpoints"]
    logged = ["metrics.jsonl", "step-00000.parquet", "rollouts", tmp_path.name]
    seal = len(synced) - 1 - synced[::-1].index("moves.jsonl")
    assert {*weights, *logged, "moves.jsonl"} == {*synced[:seal]}
    assert [name[:15] for name in synced[seal + 1 :]] == [".last_seal.json"], (
        "the seal is noted when it is there"
    )
    assert synced.index("moves.jsonl") < synced.index("rank0.pt"), (
        "nor a checkpoint without what led to it"
    )
    assert synced.index("rank0.pt") < synced.index("checkpoints"), (
        "a folder is not named before it is whole"
    )
    log.step(1, [DRAWN], LEARNED)
    synced.clear()
    log.checkpoint(Saving(), ledger)  # type: ignore[arg-type]
    assert "step-00001.parquet" in synced and "step-00000.parquet" not in synced


def test_a_checkpoint_that_was_not_sealed_is_taken_back(tmp_path: Path) -> None:
    """Killed between the two: the run goes on from the checkpoint before, as its ledger does."""
    log, ledger, graph = RunLog(tmp_path, margin), Ledger(tmp_path / "ledger"), Restored()
    for step in range(4):
        log.step(step, [DRAWN], LEARNED)
    for step in (2, 4):
        checkpoint_path(tmp_path / "checkpoints", step).mkdir(parents=True)
    ledger.seal(2, inventory(checkpoint_path(tmp_path / "checkpoints", 2)))
    assert log.resume(graph, Ledger(tmp_path / "ledger")) == 2  # type: ignore[arg-type]
    assert (
        graph.restored == "step-000002"
        and not checkpoint_path(tmp_path / "checkpoints", 4).exists()
    )
    assert (
        len(log.metrics.read_text().splitlines())
        == len(list((tmp_path / "rollouts").iterdir()))
        == 2
    )


def trained(log: RunLog, ledger: Ledger, steps: range) -> None:
    """Steps of one group each, in the ledger and in the log."""
    for step in steps:
        ledger.move([step], State.PENDING)
        for state in (State.LEASED, State.GENERATED):
            ledger.move([step], state)
        ledger.move([step], State.TRAINED, step=step)
        log.step(step, [replace(DRAWN, group_id=step)], LEARNED)


def test_a_ledger_that_has_lost_a_seal_is_refused_and_nothing_is_taken_back(tmp_path: Path) -> None:
    """It once was "not sealed": the checkpoints after the cut were deleted, and the work in
    them.
    """
    log, ledger, graph = RunLog(tmp_path, margin), Ledger(tmp_path / "ledger"), Saving()
    for steps in (range(2), range(2, 4)):
        trained(log, ledger, steps)
        log.checkpoint(graph, ledger)  # type: ignore[arg-type]
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(LedgerError, match="step 4 was sealed: the end of the ledger is missing"):
        RunLog(tmp_path, margin).resume(graph, Ledger(tmp_path / "ledger"))  # type: ignore[arg-type]
    assert (
        len(checkpoints(tmp_path / "checkpoints")) == 2
        and len(log.metrics.read_text().splitlines()) == 4
    )
    [problem] = audit(tmp_path, 1, None).problems
    assert problem.endswith("step 4 was sealed: the end of the ledger is missing")
    ledger.path.write_bytes(whole)
    assert RunLog(tmp_path, margin).resume(graph, Ledger(tmp_path / "ledger")) == 4  # type: ignore[arg-type]


def test_a_run_that_goes_on_from_an_earlier_checkpoint_stays_sound(tmp_path: Path) -> None:
    """The newest was deleted by the user: its seal is cut off, and is not missed afterwards."""
    log, ledger, graph = RunLog(tmp_path, margin), Ledger(tmp_path / "ledger"), Saving()
    for steps in (range(2), range(2, 4)):
        trained(log, ledger, steps)
        log.checkpoint(graph, ledger)  # type: ignore[arg-type]
    for step, left in ((4, 2), (2, 0)):
        shutil.rmtree(checkpoint_path(tmp_path / "checkpoints", step))
        assert audit(tmp_path, 1, None).problems == ()
        again = Ledger(tmp_path / "ledger")
        assert RunLog(tmp_path, margin).resume(graph, again) == left  # type: ignore[arg-type]
        assert audit(tmp_path, 1, None).problems == ()


def test_what_a_power_failure_has_left_behind_the_last_seal_stops_no_run(tmp_path: Path) -> None:
    """It is cut off and done again, in the ledger as in the metrics; nor does it stop an audit."""
    log, ledger, graph = RunLog(tmp_path, margin), Ledger(tmp_path / "ledger"), Saving()
    ledger.move([0], State.PENDING)
    for state in (State.LEASED, State.GENERATED, State.TRAINED):
        ledger.move([0], state, step=0)
    log.step(0, [DRAWN], LEARNED)
    log.checkpoint(graph, ledger)  # type: ignore[arg-type]
    log.step(1, [DRAWN], LEARNED)
    for path in (ledger.path, log.metrics):
        with path.open("ab") as file:
            file.write(b'{"tick' + b"\0" * 9 + b"\xff\n{}\n")
    assert audit(tmp_path, 1, None).problems == ()
    assert RunLog(tmp_path, margin).resume(graph, Ledger(tmp_path / "ledger")) == 1  # type: ignore[arg-type]
    assert len(log.metrics.read_text().splitlines()) == 1
