"""Audit: closes on what a run writes, and names what was lost, repeated, changed or left out."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.errors import LedgerError
from bimode.rl.audit import audit
from bimode.rl.ledger import FILE, Ledger, State
from bimode.storage.checkpoints import (
    LAST_SEAL,
    LastSeal,
    checkpoint_path,
    inventory,
    write_last_seal,
)
from bimode.storage.run_dir import StageDir

GROUPS = 2


def id_of(group_id: int) -> str:
    return f"q{group_id % 3}"


def write_rollouts(run: Path, step: int, group_ids: list[int]) -> None:
    (run / "rollouts").mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"group_id": [t for t in group_ids for _ in range(4)]}),
        run / "rollouts" / f"step-{step:05d}.parquet",
    )


def write_run(
    run: Path, steps: int = 3, sealed: tuple[int, ...] = (2,), worker: str = "rollout-0"
) -> Path:
    """Two groups a step, a third filtered in each; sealed after each of `sealed` steps."""
    ledger = Ledger(run / "ledger")
    for step in range(steps):
        group_ids = range(3 * step, 3 * step + 3)
        for group_id in group_ids:
            ledger.move([group_id], State.PENDING, id=id_of(group_id))
        ledger.move(group_ids, State.LEASED, worker=worker, version=step)
        ledger.move(group_ids, State.GENERATED)
        ledger.move(group_ids[:1], State.FILTERED, why="no credit")
        ledger.move(group_ids[1:], State.TRAINED, step=step)
        write_rollouts(run, step, list(group_ids[1:]))
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        if step + 1 in sealed:
            path = save_checkpoint(run, step + 1)
            digest = ledger.seal(step + 1, inventory(path))
            write_last_seal(run / "checkpoints", LastSeal(step + 1, digest))
    return run


def save_checkpoint(run: Path, step: int) -> Path:
    path = checkpoint_path(run / "checkpoints", step)
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"12345")
    return path


def finish(run: Path) -> Path:
    """The manifest of a finished stage."""
    trained = audit(run, GROUPS, id_of).counts["trained"]
    outputs = ("metrics.jsonl", "ledger")
    StageDir(run.parent, run.name).seal({}, {}, outputs, {"trained": trained}, 0.0)
    return run


def problems_of(run: Path) -> tuple[str, ...]:
    """What `bimode audit` says; a ledger that cannot be read is one problem."""
    try:
        return audit(run, GROUPS, id_of).problems
    except LedgerError as error:
        return (str(error),)


def cuts(ledger: bytes) -> list[int]:
    """Sizes to which a ledger can be cut: at every end of a line, and inside every line."""
    ends = [0]
    for line in ledger.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    inside = [(start + end) // 2 for start, end in itertools.pairwise(ends)]
    torn = [end - 1 for end in ends[1:]]
    return sorted({*ends, *inside, *torn} - {len(ledger)})


def test_a_run_closes(tmp_path: Path) -> None:
    found = audit(write_run(tmp_path), GROUPS, id_of)
    assert found.problems == () and found.notes == ()
    assert (found.started, found.sealed_steps) == (9, 2)
    assert found.counts == {
        "pending": 0,
        "leased": 0,
        "generated": 0,
        "trained": 6,
        "filtered": 3,
        "stale": 0,
        "refused": 0,
    }


def test_what_is_under_way_or_torn_or_unknown_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path)
    Ledger(tmp_path / "ledger").path.open("ab").write(
        b'{"group_id": 9, "to": "pending", "id": "q0"}\n{"tick'
    )
    found = audit(tmp_path, GROUPS, None)
    assert found.problems == () and found.counts["pending"] == 1
    assert [note.split(":")[0] for note in found.notes] == [
        "the data is not at hand",
        "the last line is torn (6 bytes)",
        (
            "1 groups are under way; a run that goes on takes them up again, one that has ended"
            " needs none"
        ),
    ]


def test_steps_after_the_last_seal_are_not_judged(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "rollouts" / "step-00002.parquet").unlink()
    assert audit(tmp_path, GROUPS, id_of).problems == ()


def lose_rollouts(run: Path) -> None:
    (run / "rollouts" / "step-00001.parquet").unlink()


def repeat_a_ticket(run: Path) -> None:
    write_rollouts(run, 1, [1, 5])


def lose_a_line(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1}\n')


def cut_a_checkpoint(run: Path) -> None:
    (checkpoint_path(run / "checkpoints", 2) / "weights").write_bytes(b"1234")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_rollouts, "step 1 has no rollouts: step-00001.parquet is missing"),
        (repeat_a_ticket, "step-00001.parquet holds groups [1] too many and [4] too few"),
        (
            lose_a_line,
            "metrics.jsonl has no line of step 0 where it should be; the ledger has sealed 2 steps",
        ),
        (cut_a_checkpoint, "step-000002 has changed since its seal"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(write_run(tmp_path))
    assert audit(tmp_path, GROUPS, id_of).problems == (says,)


@pytest.mark.parametrize("is_named", [True, False])
def test_a_checkpoint_that_a_live_run_removes_meanwhile_is_no_damage(
    tmp_path: Path, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is renamed and then removed: before its files are named they are none, after it they are
    not there.
    """
    write_run(tmp_path)

    def removed(path: Path) -> str:
        files = list(path.rglob("*"))
        shutil.rmtree(path)
        return str([file.stat().st_size for file in files]) if is_named else inventory(path)

    monkeypatch.setattr("bimode.rl.audit.inventory", removed)
    assert audit(tmp_path, GROUPS, id_of).problems == ()


def test_another_order_or_batch_than_the_recipes_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    problems = audit(
        tmp_path, 3, lambda group_id: f"q{group_id % 3}" if group_id else "q7"
    ).problems
    assert problems == (
        "group 0 is q0, the data order says q7",
        "step 0 was trained on 2 groups, not 3",
        "step 1 was trained on 2 groups, not 3",
    )


def test_a_sealed_line_that_was_changed_cannot_be_read(tmp_path: Path) -> None:
    shutil.copytree(write_run(tmp_path / "a"), tmp_path / "b")
    path = tmp_path / "b" / "ledger" / FILE
    path.write_text(path.read_text().replace('"no credit"', '"lost"', 1))
    with pytest.raises(LedgerError, match="the seal of step 2 closed has changed"):
        audit(tmp_path / "b", GROUPS, id_of)


def test_a_ledger_that_is_cut_anywhere_under_a_finished_stage_is_named(tmp_path: Path) -> None:
    run = finish(write_run(tmp_path / "bpo", steps=4, sealed=(2, 4)))
    assert problems_of(run) == ()
    path = run / "ledger" / FILE
    whole = path.read_bytes()
    for size in cuts(whole):
        path.write_bytes(whole[:size])
        found = problems_of(run)
        sealed = 2 if b"\n" in whole[whole.index(b"seal") : size] else 0
        assert found == (
            (
                "ledger is not the one that BPO finished with, which had 4 updates: its last seal"
                f" is that of step {sealed}"
            ),
        ), size


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_ledger_that_is_cut_before_its_last_seal_is_named_in_an_unfinished_stage(
    tmp_path: Path, is_noted: bool
) -> None:
    """What comes after the seal may be lost; without the note too, since metrics go on."""
    run = write_run(tmp_path / "bpo", steps=6, sealed=(2, 4))
    if not is_noted:
        (run / "checkpoints" / LAST_SEAL).unlink()
    path = run / "ledger" / FILE
    whole = path.read_bytes()
    sealed = whole.rindex(b"seal")
    for size in cuts(whole):
        path.write_bytes(whole[:size])
        found = problems_of(run)
        if b"\n" in whole[sealed:size]:
            assert found == (), size
        else:
            assert len(found) == 1 and "ledger/moves.jsonl" in found[0], (size, found)
            assert not is_noted or "says that step 4 was sealed: the end" in found[0]


def test_every_line_that_is_lost_before_the_last_seal_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bpo", steps=5, sealed=(2, 4))
    path = run / "ledger" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(at for at, line in enumerate(lines) if b"seal" in line)
    for at in range(last + 1):
        path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
        [found] = problems_of(run)
        assert "moves.jsonl" in found and ("line " in found or "step 4" in found), (at, found)


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_ledger_than_the_runs_own_is_named(tmp_path: Path, is_finished: bool) -> None:
    """An older copy, and that of a run with the same recipe, whose books close by themselves."""
    run = write_run(tmp_path / "bpo", steps=4, sealed=(2, 4))
    older = write_run(tmp_path / "older", steps=3, sealed=(2,))
    other = write_run(tmp_path / "other", steps=4, sealed=(2, 4), worker="rollout-1")
    if is_finished:
        finish(run)
    for source, says in ((older, "step 4"), (other, "another run's")):
        shutil.copy(source / "ledger" / FILE, run / "ledger" / FILE)
        [found] = problems_of(run)
        assert found.startswith("ledger")
        assert ("is not the one that BPO finished with" if is_finished else says) in found


def test_metrics_that_are_shorter_or_longer_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bpo", steps=4, sealed=(2, 4))
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole[:-4])
    assert problems_of(run) == (
        "metrics.jsonl has no line of step 3 where it should be; the ledger has sealed 4 steps",
    )
    metrics.write_text(whole)
    finish(run)
    for text in (whole[:-4], whole + '{"step": 4}\n', whole.replace("3", "2")):
        metrics.write_text(text)
        assert problems_of(run)[0].startswith("metrics.jsonl is not the one that BPO finished with")


def test_a_run_that_was_stopped_between_checkpoint_and_seal_is_sound(tmp_path: Path) -> None:
    """It is repaired when the run goes on; and it is told from a run that went on after it."""
    run = write_run(tmp_path / "bpo", steps=4, sealed=(2,))
    save_checkpoint(run, 4)
    found = audit(run, GROUPS, id_of)
    assert found.problems == () and found.notes == (
        (
            "step-000004 has no seal: the run was stopped between the two; a resumed run goes on"
            " from step 2"
        ),
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4}\n')
    assert problems_of(run) == (
        (
            "ledger/moves.jsonl is not that of checkpoints/step-000004: it has no seal of step 4,"
            " and the run went on to step 5; its last seal is that of step 2"
        ),
    )


def test_a_checkpoint_whose_updates_the_ledger_lacks_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bpo", steps=4, sealed=(2,))
    save_checkpoint(run, 5)
    [found] = problems_of(run)
    assert "it has no seal of step 5, and lacks groups of step 4" in found


def test_a_run_stays_sound_when_it_is_copied_or_loses_its_checkpoints(tmp_path: Path) -> None:
    """Folders are moved, and old checkpoints are deleted for their room."""
    run = finish(write_run(tmp_path / "bpo", steps=4, sealed=(2, 4)))
    copy = tmp_path / "copies" / "bpo"
    shutil.copytree(run, copy)
    assert problems_of(copy) == ()
    shutil.rmtree(copy / "checkpoints")
    assert problems_of(copy) == ()
    (copy / "manifest.json").unlink()
    assert problems_of(copy) == ()
