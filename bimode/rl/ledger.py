"""The ledger of a BPO run: where every drawn prompt went, one line of JSON for each move.

A group is one draw of a question (`bimode.rl.rollout_task`). It is in exactly one state:

    pending -> leased -> generated -> trained
       ^          |  |       |------> filtered      there was no credit in it
       |          |  |       '------> stale         the policy had moved on too far
       |          |  '--------------> refused       the engine does not take its prompt, or its
       |          |                                 answer cannot be judged
       '----------'----------'  its worker died, or the run went on from a checkpoint

The file is only appended to while a run lives. `seal` closes a stretch of it together with a
checkpoint: its line holds how many groups were started, how many are in each state, and a digest of
every byte before it. A run that goes on cuts the file after the seal of its checkpoint, as the
weights are cut back there, and what was under way at that point is pending again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from bimode.errors import LedgerError
from bimode.storage.run_dir import own_file

FILE = "moves.jsonl"


class State(StrEnum):
    """The state of a group."""

    PENDING = "pending"
    LEASED = "leased"
    GENERATED = "generated"
    TRAINED = "trained"
    FILTERED = "filtered"
    STALE = "stale"
    REFUSED = "refused"


GROUP_ENDS = frozenset({State.TRAINED, State.FILTERED, State.STALE})  # of a group that there is
TERMINAL_STATES = GROUP_ENDS | {State.REFUSED}
TRANSITIONS = {
    None: {State.PENDING},
    State.PENDING: {State.LEASED},
    State.LEASED: {State.GENERATED, State.REFUSED, State.PENDING},
    State.GENERATED: {*GROUP_ENDS, State.PENDING},
}


@dataclass(slots=True)
class LedgerState:
    """The sum of a ledger's lines: groups started, the state of those that have not ended, the
    count of the others.
    """

    started: int = 0
    open: dict[int, State] = field(default_factory=dict)
    ended: Counter[State] = field(default_factory=Counter)

    def move(self, group_id: int, to: State) -> None:
        """Apply a move. Raises LedgerError for one that no run makes: a group out of order, or out
        of a state it is not in.
        """
        before = self.open.get(group_id)
        if before is None and group_id != self.started:
            state = (
                "has ended" if group_id < self.started else f"is not the next; {self.started} is"
            )
            raise LedgerError(f"group {group_id} cannot become {to}: it {state}")
        if to not in TRANSITIONS[before]:
            raise LedgerError(
                f"group {group_id} cannot become {to}: it is {before or 'not started'}"
            )
        if before is None:
            self.started += 1
        if to in TERMINAL_STATES:
            del self.open[group_id]
            self.ended[to] += 1
        else:
            self.open[group_id] = to

    def counts(self) -> dict[str, int]:
        """Count the groups by state; the counts add up to `started`."""
        found = self.ended + Counter(self.open.values())
        return {state.value: found[state] for state in State}


class Ledger:
    """Writes the moves of a live run into ``FOLDER/moves.jsonl``. A seal falls between two calls of
    `move`, from any thread.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.totals = LedgerState()
        # unbuffered: a whole line or none reaches the system, also when killed
        self._file = FileIO(self.path, "a", opener=own_file)
        self._failure: OSError | None = None
        self._hasher = hashlib.blake2b(digest_size=16)
        self._lock = Lock()

    def resume(self, step: int) -> int:
        """Continue after the seal of `step` (0: before the first line); return how many bytes after
        it were cut off.

        Raises LedgerError if there is no such seal, or if what it sealed has changed.
        """
        found = read(self.path, until=step)
        size = self.path.stat().st_size
        self._file.truncate(found.size)
        self.totals, self._hasher = found.totals, found.hasher
        for group_id, state in sorted(self.totals.open.items()):
            if state is not State.PENDING:
                self.move([group_id], State.PENDING, why=f"resumed at step {step}")
        return size - found.size

    def move(self, group_ids: Iterable[int], to: State, **facts: Any) -> None:
        """Move `group_ids` to a state and append the line; `facts` are for the reader (id, worker,
        step, why).
        """
        with self._lock:
            for group_id in group_ids:
                self.totals.move(group_id, to)
                self._write({"group_id": group_id, "to": to.value, **facts})

    def seal(self, step: int, checkpoint: str) -> str:
        """Seal the ledger with the inventory of the checkpoint of `step`; on disk when it returns.

        Returns the digest of every byte before the seal, which tells this ledger from any other.
        """
        with self._lock:
            digest = self._hasher.hexdigest()
            counts = {"started": self.totals.started, "counts": self.totals.counts()}
            self._write({"seal": step, "checkpoint": checkpoint, **counts, "digest": digest})
            os.fsync(self._file.fileno())
            return digest

    def _write(self, line: dict[str, Any]) -> None:
        """Append a line. Nothing may follow a line that is torn or missing, as on a full disk:
        later calls fail too.
        """
        if self._failure is not None:
            raise self._failure
        data = json.dumps(line).encode() + b"\n"
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError as error:
            self._failure = error
            raise
        self._hasher.update(data)


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """A ledger read from its start: state, bytes read, lines of seals, and every move as it was
    written.
    """

    totals: LedgerState
    size: int
    hasher: Any
    seals: tuple[dict[str, Any], ...]
    moves: tuple[dict[str, Any], ...]
    # bytes at the end that are no lines: a last one that was cut off, or what a power failure has
    # left behind a seal
    torn: int


def read(path: Path, until: int | None = None) -> LedgerSnapshot:
    """Read a ledger to its end, or to the seal of step `until` (0: nothing). Raises LedgerError.

    Only what is sealed is known to be on disk: from a line behind the last seal on that cannot be
    read, the rest is torn.
    """
    totals, hasher, size = LedgerState(), hashlib.blake2b(digest_size=16), 0
    seals: list[dict[str, Any]] = []
    moves: list[dict[str, Any]] = []
    data = path.read_bytes() if path.is_file() and until != 0 else b""
    lines = data.splitlines(keepends=True)
    torn = len(lines.pop()) if lines and not lines[-1].endswith(b"\n") else 0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if "seal" in entry:
                check_seal(entry, totals, hasher.hexdigest())
                seals.append(entry)
            else:
                totals.move(entry["group_id"], State(entry["to"]))
                moves.append(entry)
        except (ValueError, KeyError, TypeError, LedgerError) as error:
            if (
                isinstance(error, ValueError)
                and until is None
                and not any(b'"seal"' in later for later in lines[number - 1 :])
            ):
                torn += sum(map(len, lines[number - 1 :]))
                break
            raise LedgerError(f"{path}, line {number}: {error}") from None
        hasher.update(line)
        size += len(line)
        if until is not None and entry.get("seal") == until:
            return LedgerSnapshot(totals, size, hasher, tuple(seals), tuple(moves), 0)
    if until:
        raise LedgerError(f"{path} has no seal of step {until}, which a checkpoint asks for")
    return LedgerSnapshot(totals, size, hasher, tuple(seals), tuple(moves), torn)


def check_seal(entry: dict[str, Any], totals: LedgerState, digest: str) -> None:
    """Raise LedgerError unless a seal is the sum of the lines before it."""
    if entry["digest"] != digest:
        raise LedgerError(f"what the seal of step {entry['seal']} closed has changed since")
    counts = {state.value: 0 for state in State} | entry[
        "counts"
    ]  # one that was sealed before a state was known has none in it
    if entry["started"] != totals.started or counts != totals.counts():
        raise LedgerError(
            f"the seal of step {entry['seal']} counts {entry['counts']}, the lines before it"
            f" {totals.counts()}"
        )
