"""Audit: closes on what a run writes, and names what was lost, repeated, changed or left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.audit import audit
from bimode.checkpoints import checkpoint_path, inventory
from bimode.errors import LedgerError
from bimode.ledger import FILE, Ledger, State

GROUPS = 2


def id_of(ticket: int) -> str:
    return f"q{ticket % 3}"


def write_rollouts(run: Path, step: int, tickets: list[int]) -> None:
    (run / "rollouts").mkdir(exist_ok=True)
    pq.write_table(pa.table({"ticket": [t for t in tickets for _ in range(4)]}), run / "rollouts" / f"step-{step:05d}.parquet")


def write_run(run: Path, steps: int = 3, sealed: int = 2) -> Path:
    """Two groups a step, a third filtered in each; sealed after `sealed` steps."""
    ledger = Ledger(run / "ledger")
    for step in range(steps):
        tickets = range(3 * step, 3 * step + 3)
        for ticket in tickets:
            ledger.move([ticket], State.PENDING, id=id_of(ticket))
        ledger.move(tickets, State.LEASED, worker="rollout-0", version=step)
        ledger.move(tickets, State.GENERATED)
        ledger.move(tickets[:1], State.FILTERED, why="no credit")
        ledger.move(tickets[1:], State.TRAINED, step=step)
        write_rollouts(run, step, list(tickets[1:]))
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        if step + 1 == sealed:
            path = checkpoint_path(run / "checkpoints", step + 1)
            path.mkdir(parents=True)
            (path / "weights").write_bytes(b"12345")
            ledger.seal(step + 1, inventory(path))
    return run


def test_a_run_closes(tmp_path: Path) -> None:
    found = audit(write_run(tmp_path), GROUPS, id_of)
    assert found.problems == () and found.notes == ()
    assert (found.drawn, found.sealed_steps) == (9, 2)
    assert found.counts == {"pending": 0, "leased": 0, "generated": 0, "trained": 6, "filtered": 3, "stale": 0, "refused": 0}


def test_what_is_under_way_or_torn_or_unknown_is_noted(tmp_path: Path) -> None:
    write_run(tmp_path)
    Ledger(tmp_path / "ledger").path.open("ab").write(b'{"ticket": 9, "to": "pending", "id": "q0"}\n{"tick')
    found = audit(tmp_path, GROUPS, None)
    assert found.problems == () and found.counts["pending"] == 1
    assert [note.split(":")[0] for note in found.notes] == [
        "the data is not at hand", "the last line is torn (6 bytes)",
        "1 tickets are under way; a run that goes on takes them up again, one that has ended needs none",
    ]  # fmt: skip


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
        (repeat_a_ticket, "step-00001.parquet holds tickets [1] too many and [4] too few"),
        (lose_a_line, "metrics.jsonl has not one line for each of 2 sealed steps"),
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
    """It is renamed and then removed: before its files are named they are none, after it they are not there."""
    write_run(tmp_path)

    def removed(path: Path) -> str:
        files = list(path.rglob("*"))
        shutil.rmtree(path)
        return str([file.stat().st_size for file in files]) if is_named else inventory(path)

    monkeypatch.setattr("bimode.audit.inventory", removed)
    assert audit(tmp_path, GROUPS, id_of).problems == ()


def test_another_order_or_batch_than_the_recipes_is_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    problems = audit(tmp_path, 3, lambda ticket: f"q{ticket % 3}" if ticket else "q7").problems
    assert problems == (
        "ticket 0 is q0, the data order says q7", "step 0 was trained on 2 groups, not 3", "step 1 was trained on 2 groups, not 3"
    )  # fmt: skip


def test_a_sealed_line_that_was_changed_cannot_be_read(tmp_path: Path) -> None:
    shutil.copytree(write_run(tmp_path / "a"), tmp_path / "b")
    path = tmp_path / "b" / "ledger" / FILE
    path.write_text(path.read_text().replace('"no credit"', '"lost"', 1))
    with pytest.raises(LedgerError, match="the seal of step 2 closed has changed"):
        audit(tmp_path / "b", GROUPS, id_of)
