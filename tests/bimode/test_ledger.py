"""The ledger: legal moves, seals, a torn tail, a resumed run, and what audit must notice."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.errors import LedgerError
from bimode.rl.ledger import FILE, TERMINAL_STATES, Ledger, LedgerState, State, read

P, L, G, T, F = State.PENDING, State.LEASED, State.GENERATED, State.TRAINED, State.FILTERED


def written(folder: Path) -> Ledger:
    """Two trained and sealed at step 1; one filtered, one generated, one leased after it."""
    ledger = Ledger(folder)
    ledger.move(range(2), P, id="q")
    ledger.move(range(2), L, worker="rollout-0")
    ledger.move(range(2), G)
    ledger.move(range(2), T, step=0)
    ledger.seal(1, "c")
    ledger.move(range(2, 5), P, id="q")
    ledger.move(range(2, 5), L, worker="rollout-1")
    ledger.move([2, 3], G)
    ledger.move([2], F, why="no credit")
    return ledger


def test_counts_add_up_to_what_was_drawn(tmp_path: Path) -> None:
    totals = written(tmp_path).totals
    assert totals.started == 5
    assert totals.counts() == {
        "pending": 0,
        "leased": 1,
        "generated": 1,
        "trained": 2,
        "filtered": 1,
        "stale": 0,
        "refused": 0,
    }
    found = read(tmp_path / FILE)
    assert found.totals == totals and [s["seal"] for s in found.seals] == [1] and found.torn == 0
    assert found.moves[0] == {"group_id": 0, "to": "pending", "id": "q"}


@pytest.mark.parametrize(
    ("group_id", "to", "says"),
    [
        (6, P, "is not the next; 5 is"),
        (0, L, "has ended"),
        (0, P, "has ended"),
        (4, T, "it is leased"),
        (3, L, "it is generated"),
        (5, L, "it is not started"),
        (3, State.REFUSED, "it is generated"),
    ],
)
def test_a_move_that_no_run_makes_is_refused_and_not_written(
    tmp_path: Path, group_id: int, to: State, says: str
) -> None:
    ledger = written(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(LedgerError, match=says):
        ledger.move([group_id], to)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_resumed_run_is_cut_back_to_its_seal(tmp_path: Path) -> None:
    sealed = (tmp_path / FILE).read_bytes() if written(tmp_path).path.is_file() else b""
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"group_id": 4, "to')  # killed while it wrote
    assert read(tmp_path / FILE).torn == 19
    ledger = Ledger(tmp_path)
    cut = ledger.resume(1)
    kept = (tmp_path / FILE).read_bytes()
    assert sealed.startswith(kept) and cut == len(sealed) + 19 - len(kept)
    assert json.loads(kept.splitlines()[-1])["seal"] == 1
    ledger.move([2], P, id="again")
    ledger.seal(2, "c")
    assert [s["seal"] for s in read(tmp_path / FILE).seals] == [1, 2]


@pytest.mark.parametrize(
    "left",
    [b"\0" * 30, b'{"tick' + b"\0" * 9 + b'\n{"group_id": 5, "to": "pending"}\n', b"\xff\xfe\n"],
)
def test_what_a_power_failure_has_left_behind_the_last_seal_is_torn(
    tmp_path: Path, left: bytes
) -> None:
    """Whole lines too: pages reach a disk in any order. In front of a seal they were on disk, and
    have changed since.
    """
    written(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + left)
    found = read(tmp_path / FILE)
    assert (
        found.torn == len(left)
        and found.size == len(whole)
        and [seal["seal"] for seal in found.seals] == [1]
    )
    assert Ledger(tmp_path).resume(1) == len(whole + left) - whole.index(b'{"group_id": 2')
    first, _, rest = whole.partition(b"\n")
    (tmp_path / FILE).write_bytes(first + b"\n" + left + b"\n" + rest)
    with pytest.raises(LedgerError, match="line 2"):
        read(tmp_path / FILE)


@pytest.mark.parametrize("room", [20, 0])
def test_nothing_follows_a_line_that_the_disk_had_no_room_for(tmp_path: Path, room: int) -> None:
    """The rollouts' thread finds the disk full, and the learner's goes on to the next seal: what it
    closed could not be read.
    """
    ledger = written(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ledger.path.stat().st_size + room, hard))
    try:
        with pytest.raises(OSError, match=r"(No space|too large)"):
            ledger.move([5], P, id="q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    later: list[Callable[[], None]] = [lambda: ledger.move([4], G), lambda: ledger.seal(2, "c")]
    for write in later:
        with pytest.raises(OSError, match=r"(No space|too large)"):
            write()
    assert read(tmp_path / FILE).torn == room
    again = Ledger(tmp_path)
    assert again.resume(1) > 0 and again.totals.started == 2


def test_what_was_under_way_at_a_seal_is_pending_again(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    ledger.seal(2, "c")
    again = Ledger(tmp_path)
    assert again.resume(2) == 0
    counts = {
        "pending": 2,
        "leased": 0,
        "generated": 0,
        "trained": 2,
        "filtered": 1,
        "stale": 0,
        "refused": 0,
    }
    assert again.totals.counts() == counts
    assert read(tmp_path / FILE).moves[-1] == {
        "group_id": 4,
        "to": "pending",
        "why": "resumed at step 2",
    }


def test_without_a_checkpoint_a_run_starts_its_ledger_anew(tmp_path: Path) -> None:
    written(tmp_path)
    ledger = Ledger(tmp_path)
    assert (
        ledger.resume(0) > 0
        and ledger.totals == LedgerState()
        and (tmp_path / FILE).read_bytes() == b""
    )


def test_a_checkpoint_without_its_seal_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(LedgerError, match="no seal of step 7"):
        Ledger(tmp_path).resume(7)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"id": "q"', b'"id": "z"', r"line 9: what the seal of step 1 closed has changed"),
        (b'"trained": 2', b'"trained": 1', r"line 9: the seal of step 1 counts"),
        (b'{"group_id": 1, "to": "trained", "step": 0}\n', b"", r"line 8: what the seal"),
        (b'"to": "leased"', b'"to": "lent"', r"line 3: 'lent' is not a valid State"),
        (b'{"group_id": 1, "to": "pending", "id": "q"}', b"{]", r"line 2: "),
    ],
)
def test_a_changed_ledger_is_noticed(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    written(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    assert old in data
    (tmp_path / FILE).write_bytes(data.replace(old, new, 1))
    with pytest.raises(LedgerError, match=says):
        read(tmp_path / FILE)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(State))), max_size=60))
def test_whatever_is_asked_each_drawn_ticket_is_in_one_state(
    moves: list[tuple[int, State]],
) -> None:
    totals = LedgerState()
    for group_id, to in moves:
        try:
            totals.move(group_id, to)
        except LedgerError:
            continue
    assert sum(totals.counts().values()) == totals.started
    assert not set(totals.open.values()) & TERMINAL_STATES and set(totals.open) <= set(
        range(totals.started)
    )
