"""Where every question of a BPO run has gone, proven from what the run wrote: ledger, rollouts, metrics, checkpoints.

What is sealed has to be whole: the digests of the seals (`bimode.ledger`), a batch of the right size behind every update, the
same tickets in the rollouts of that step, the questions of the data order, each checkpoint as it was when it was sealed. What
comes after the last seal is told and not judged: a run that goes on cuts it off and does it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bimode.checkpoints import checkpoints, inventory, step_of
from bimode.errors import LedgerError
from bimode.ledger import FILE, Reading, State, read

SHOWN = 5  # of problems of one kind


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in a BPO folder. It closes if there is no problem."""

    counts: dict[str, int]  # tickets by state, which add up to `drawn`
    drawn: int
    sealed_steps: int
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def audit(folder: Path, groups_per_step: int, id_of: Callable[[int], str] | None) -> Audit:
    """Audits a BPO folder. `id_of` is the data order, None where the data is not at hand. Raises LedgerError if unreadable."""
    ledger = read(folder / "ledger" / FILE)
    last = ledger.seals[-1]["seal"] if ledger.seals else 0
    books = ledger.books
    problems = [*_order(ledger, id_of), *_updates(ledger, folder, last, groups_per_step), *_checkpoints(ledger, folder)]
    if sum(books.counts().values()) != books.drawn:
        problems.append(f"{books.drawn} tickets were drawn, {sum(books.counts().values())} are in a state")
    notes = [] if id_of else ["the data is not at hand: which question each ticket was, is not checked"]
    if ledger.torn:
        notes.append(f"the last line is torn ({ledger.torn} bytes): a resumed run repairs it")
    if under_way := len(books.open):
        notes.append(f"{under_way} tickets are under way; a run that goes on takes them up again, one that has ended needs none")
    return Audit(books.counts(), books.drawn, last, tuple(notes), tuple(problems))


def _order(ledger: Reading, id_of: Callable[[int], str] | None) -> list[str]:
    """The n-th draw is the n-th question of the data order."""
    if id_of is None:
        return []
    drawn = [(move["ticket"], move["id"]) for move in ledger.moves if "id" in move]
    return [f"ticket {t} is {name}, the data order says {id_of(t)}" for t, name in drawn if name != id_of(t)][:SHOWN]


def _updates(ledger: Reading, folder: Path, last: int, groups_per_step: int) -> list[str]:
    """Every sealed update has its batch, its line of metrics and the rollouts of the same tickets."""
    import pyarrow.parquet as pq

    trained: dict[int, set[int]] = {}
    for move in ledger.moves:
        if move["to"] == State.TRAINED:
            trained.setdefault(move["step"], set()).add(move["ticket"])
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(errors="replace").splitlines()[:last] if metrics.is_file() else []  # those behind may be torn
    logged = [json.loads(line)["step"] for line in lines]
    problems = [] if logged == list(range(last)) else [f"metrics.jsonl has not one line for each of {last} sealed steps"]
    for step in range(last):
        batch, file = trained.get(step, set()), folder / "rollouts" / f"step-{step:05d}.parquet"
        if len(batch) != groups_per_step:
            problems.append(f"step {step} was trained on {len(batch)} groups, not {groups_per_step}")
        if not file.is_file():
            problems.append(f"step {step} has no rollouts: {file.name} is missing")
        elif (found := set(pq.read_table(file, columns=["ticket"])["ticket"].to_pylist())) != batch:
            problems.append(f"{file.name} holds tickets {sorted(found - batch)} too many and {sorted(batch - found)} too few")
    return problems


def _checkpoints(ledger: Reading, folder: Path) -> list[str]:
    """Those that are kept are what was sealed."""
    changed = [path for path in checkpoints(folder / "checkpoints") if _has_changed(ledger, path)]
    return [f"{path.name} has changed since its seal" for path in changed if path.is_dir()]  # a live run removes old ones


def _has_changed(ledger: Reading, path: Path) -> bool:
    sealed = {seal["seal"]: seal["checkpoint"] for seal in ledger.seals}
    try:
        return step_of(path) in sealed and inventory(path) != sealed[step_of(path)]
    except FileNotFoundError:  # while it was looked at
        return True


def check_checkpoint(ledger: Reading, path: Path) -> None:
    """Raises LedgerError unless a checkpoint is what its seal says."""
    if _has_changed(ledger, path):
        raise LedgerError(f"{path} has changed since its seal; restore it, or delete it to go on from the one before")
