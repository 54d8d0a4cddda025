"""`bimode audit` compares with the data that the run drew from, also where curation has published
since.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.rl.ledger import Ledger, State
from bimode.rl.rollout_task import item_of
from bimode.storage.run_dir import FORMAT, StageDir, digest_path
from pipelines.__main__ import exit_code
from pipelines.audit import audit_run

OLD = ["q0", "q1", "q2", "q3"]


def publish(run: Path, version: str, ids: list[str]) -> Path:
    """A version of curated data, which becomes the current one."""
    data = run / "curate" / "versions" / version / "data"
    data.mkdir(parents=True)
    pq.write_table(pa.table({"id": ids}), data / "rl-00000-of-00001.parquet")
    (data.parent / "manifest.json").write_text(json.dumps({"outputs": {"data": digest_path(data)}}))
    link = run / "curate" / "data"
    link.unlink(missing_ok=True)
    link.symlink_to(data)
    return data


def drawn_from(run: Path, started: list[str]) -> Path:
    """A run whose BPO has drawn `started`, one after the other, from the first version of the
    data.
    """
    (run / "bpo").mkdir()
    (run / "manifest.json").write_text(
        json.dumps({"format": FORMAT, "recipe": {"bpo": {"prompts_per_step": 1}, "seed": 0}})
    )
    claim = {"config": "", "inputs": {"data": digest_path(run / "curate" / "data"), "model": ""}}
    (run / "bpo" / "claim.json").write_text(json.dumps(claim))
    ledger = Ledger(run / "bpo" / "ledger")
    for group_id, name in enumerate(started):
        ledger.move([group_id], State.PENDING, id=name)
    return run


@pytest.mark.parametrize("is_kept", [True, False])
def test_data_that_was_published_since_is_not_what_the_run_drew_from(
    tmp_path: Path,
    is_kept: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other version is read for that, and one that has changed in its place is found."""
    hashed: list[str] = []
    monkeypatch.setattr(
        "pipelines.audit.digest_path",
        lambda data: (hashed.append(data.parent.name), digest_path(data))[1],
    )
    old = publish(tmp_path, "0001", OLD)
    run = drawn_from(tmp_path, [OLD[item_of(group_id, len(OLD), 0)] for group_id in range(4)])
    assert audit_run(run) == 0 and "not at hand" not in capsys.readouterr().out
    publish(tmp_path, "0002", ["new", *OLD])
    if not is_kept:
        next(old.iterdir()).unlink()
    assert audit_run(run) == 0
    assert ("not at hand" in capsys.readouterr().out) is not is_kept and hashed == ["0001", "0001"]


def test_another_question_than_the_datas_is_found_in_the_version_that_was_drawn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, "0001", OLD)
    run = drawn_from(tmp_path, ["other"])
    publish(tmp_path, "0002", ["other"])
    assert audit_run(run) == 1
    assert "group 0 is other" in capsys.readouterr().out


def test_an_unfinished_run_is_held_against_its_own_batch_and_not_against_what_came_later(
    tmp_path: Path,
) -> None:
    """Another stage may have worked in the directory since, by another recipe, which is then the
    run's.
    """
    publish(tmp_path, "0001", OLD)
    order = [OLD[item_of(group_id, len(OLD), 1)] for group_id in range(2)]
    run = drawn_from(tmp_path, [])
    (run / "bpo" / "claim.json").unlink()
    work = {
        "config": "digest",
        "inputs": {"data": digest_path(run / "curate" / "data"), "model": ""},
    }
    StageDir(run, "bpo").claim(work, {"bpo": {"prompts_per_step": 2}, "seed": 1})
    ledger = Ledger(run / "bpo" / "ledger")
    for group_id, name in enumerate(order):
        ledger.move([group_id], State.PENDING, id=name)
    for state in (State.LEASED, State.GENERATED, State.TRAINED):
        ledger.move(range(2), state, step=0)
    ledger.seal(1, "")
    (run / "bpo" / "metrics.jsonl").write_text('{"step": 0}\n')
    (run / "bpo" / "rollouts").mkdir()
    pq.write_table(pa.table({"group_id": [0, 1]}), run / "bpo" / "rollouts" / "step-00000.parquet")
    assert audit_run(run) == 0
    assert "going on" in StageDir(run, "bpo").claim(work, {"of": "the same digest"}), (
        "the settings are no part of the claim"
    )


def finished(run: Path, group_ids: int) -> Path:
    """A finished BPO of one group a step, with a seal after each."""
    publish(run, "0001", OLD)
    drawn_from(run, [])
    bpo = run / "bpo"
    ledger = Ledger(bpo / "ledger")
    (bpo / "rollouts").mkdir()
    for group_id in range(group_ids):
        ledger.move([group_id], State.PENDING, id=OLD[item_of(group_id, len(OLD), 0)])
        for state in (State.LEASED, State.GENERATED, State.TRAINED):
            ledger.move([group_id], state, step=group_id)
        with (bpo / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": group_id}) + "\n")
        rollouts = pa.table({"group_id": [group_id]})
        pq.write_table(rollouts, bpo / "rollouts" / f"step-{group_id:05d}.parquet")
        ledger.seal(group_id + 1, "")
    stage, counts = StageDir(run, "bpo"), ledger.totals.counts()
    recipe = {"bpo": {"prompts_per_step": 1}, "seed": 0}
    stage.seal(recipe, {}, ("metrics.jsonl", "ledger"), counts, 0.0)
    return run


def test_a_ledger_cut_to_two_thirds_under_a_finished_run_does_not_close(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that all was accounted for; and with no ledger at all, that BPO had not begun."""
    run = finished(tmp_path, 110)
    assert exit_code(["audit", str(run)]) == 0
    assert "audit passed" in capsys.readouterr().out
    path = run / "bpo" / "ledger" / "moves.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) * 2 // 3]))
    assert exit_code(["audit", str(run)]) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "PROBLEM" in line]
    assert told == [
        "PROBLEM: ledger is not the one that BPO finished with, which had 110 updates: its last "
        "seal is that of step 73"
    ]
    shutil.rmtree(path.parent)
    assert exit_code(["audit", str(run)]) == 1
    assert "its last seal is that of step 0" in capsys.readouterr().out
