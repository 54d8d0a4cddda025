"""Proves where every prompt of a BPO run went, from the run's own files: ledger, rollouts, metrics,
checkpoints.

What is sealed has to be whole: the digests of the seals (`bimode.rl.ledger`), a batch of the right
size behind every update, the same groups in the rollouts of that step, the questions of the data
order, each checkpoint as it was when it was sealed. What comes after the last seal is told and not
judged: a run that goes on cuts it off and does it again.

A ledger cannot say of itself that its end is missing, or that it is another run's. Three witnesses
outside of it can: the manifest of a finished stage (digests of the ledger and of metrics.jsonl),
the note of the last seal (`bimode.storage.checkpoints.LastSeal`), and a checkpoint that has no
seal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.errors import LedgerError
from bimode.rl.ledger import FILE, LedgerSnapshot, State, read
from bimode.storage.checkpoints import (
    LAST_SEAL,
    LastSeal,
    checkpoint_path,
    checkpoints,
    inventory,
    read_last_seal,
    step_of,
)
from bimode.storage.run_dir import digest_path, read_json

SHOWN = 5  # of problems of one kind


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of an audit. It passes if there is no problem."""

    counts: dict[str, int]  # groups by state, which add up to `started`
    started: int
    sealed_steps: int
    notes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What the other files of a BPO folder say about its ledger. They are read before the ledger,
    which only grows during a run.
    """

    manifest: Mapping[str, Any] | None  # of a finished stage
    last_seal: LastSeal | None
    checkpoints: tuple[int, ...]  # steps, oldest first
    logged: int  # steps in metrics.jsonl


def audit(folder: Path, groups_per_step: int, id_of: Callable[[int], str] | None) -> Audit:
    """Audit a BPO folder. `id_of` is the data order, None where the data is not at hand. Raises
    LedgerError if unreadable.
    """
    witnesses = _witnesses(folder)
    ledger = read(folder / "ledger" / FILE)
    last, totals = _last(ledger), ledger.totals
    problems = [
        *_end(ledger, folder, witnesses, groups_per_step),
        *_order(ledger, id_of),
        *_updates(ledger, folder, last, groups_per_step),
        *_checkpoints(ledger, folder),
    ]
    if sum(totals.counts().values()) != totals.started:
        problems.append(
            f"{totals.started} groups were started, {sum(totals.counts().values())} are in a state"
        )
    notes = (
        [] if id_of else ["the data is not at hand: which question each group was, is not checked"]
    )
    notes += [] if problems else _unsealed(ledger, witnesses)
    if ledger.torn:
        notes.append(f"the last line is torn ({ledger.torn} bytes): a resumed run repairs it")
    if under_way := len(totals.open):
        notes.append(
            f"{under_way} groups are under way; a run that goes on takes them up again, one that"
            " has ended needs none"
        )
    return Audit(totals.counts(), totals.started, last, tuple(notes), tuple(problems))


def _witnesses(folder: Path) -> Witnesses:
    root = folder / "checkpoints"
    steps = tuple(step_of(path) for path in checkpoints(root))
    manifest = read_json(folder / "manifest.json")
    return Witnesses(manifest, read_last_seal(root), steps, len(_logged(folder)))


def _logged(folder: Path) -> list[int]:
    """Return the steps in metrics.jsonl, up to a line that cannot be read."""
    path, steps = folder / "metrics.jsonl", list[int]()
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            steps.append(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            break
    return steps


def _end(
    ledger: LedgerSnapshot, folder: Path, witnesses: Witnesses, groups_per_step: int
) -> list[str]:
    """Return what shows that the ledger is another run's or lacks its end."""
    if witnesses.manifest is not None:
        return _against_manifest(ledger, folder, witnesses.manifest, groups_per_step)
    if missing := missing_seal(ledger, witnesses.last_seal):
        return [missing]
    sealed = {seal["seal"] for seal in ledger.seals}
    problems = []
    for step in witnesses.checkpoints:
        is_there = checkpoint_path(folder / "checkpoints", step).is_dir()  # a live run removes old
        if is_there and step not in sealed:
            problems += _against_checkpoint(ledger, step, witnesses, groups_per_step)
    return problems[:1]


def _against_manifest(
    ledger: LedgerSnapshot, folder: Path, manifest: Mapping[str, Any], groups_per_step: int
) -> list[str]:
    """Compare ledger and metrics with the digests in a finished stage's manifest."""
    updates = manifest["counts"]["trained"] // groups_per_step
    found = {"ledger": f"its last seal is that of step {_last(ledger)}"}
    found["metrics.jsonl"] = f"it has {len(_logged(folder))} steps"
    return [
        f"{name} is not the one that BPO finished with, which had {updates} updates: {has}"
        for name, has in found.items()
        if digest_path(folder / name) != manifest["outputs"][name]
    ]


def missing_seal(ledger: LedgerSnapshot, noted: LastSeal | None) -> str:
    """Return what is wrong if the ledger lacks the seal that was noted outside of it, else an empty
    text.
    """
    if noted is None:
        return ""
    digests = {seal["seal"]: seal["digest"] for seal in ledger.seals}
    if noted.step not in digests:
        return (
            f"ledger/{FILE} ends at the seal of step {_last(ledger)}, but checkpoints/{LAST_SEAL} "
            f"says that step {noted.step} was sealed: the end of the ledger is missing"
        )
    if digests[noted.step] != noted.digest:
        return (
            f"ledger/{FILE} is another run's: its seal of step {noted.step} is not the one that "
            f"checkpoints/{LAST_SEAL} says"
        )
    return ""


def _against_checkpoint(
    ledger: LedgerSnapshot, step: int, witnesses: Witnesses, groups_per_step: int
) -> list[str]:
    """Check a checkpoint without a seal. It is sound if the run was stopped between the two: then
    the ledger holds all its updates, and nothing was done after it.
    """
    last, trained = _last(ledger), _trained(ledger)
    lacking = [at for at in range(last, step) if len(trained.get(at, ())) != groups_per_step]
    further = max(witnesses.logged, witnesses.checkpoints[-1], last)
    if lacking:
        why = f"lacks groups of step {lacking[0]}"
    elif further > step:
        why = f"the run went on to step {further}"
    else:
        return []
    return [
        f"ledger/{FILE} is not that of checkpoints/step-{step:06d}: it has no seal of step {step}, "
        f"and {why}; its last seal is that of step {last}"
    ]


def _unsealed(ledger: LedgerSnapshot, witnesses: Witnesses) -> list[str]:
    """Return notes on what a stopped run left after its last seal."""
    last, updates = _last(ledger), len(_trained(ledger))
    notes = [
        f"step-{step:06d} has no seal: the run was stopped between the two; "
        f"a resumed run goes on from step {last}"
        for step in witnesses.checkpoints
        if step > last
    ]
    if witnesses.logged > updates:
        notes.append(
            f"metrics.jsonl has {witnesses.logged} steps, the ledger {updates}, of which {last} are"
            " sealed; a resumed run goes on from there"
        )
    return notes


def _last(ledger: LedgerSnapshot) -> int:
    """Return the step of the last seal, 0 if there is none."""
    return int(ledger.seals[-1]["seal"]) if ledger.seals else 0


def _trained(ledger: LedgerSnapshot) -> dict[int, set[int]]:
    """Return the groups that each step was trained on."""
    trained: dict[int, set[int]] = {}
    for move in ledger.moves:
        if move["to"] == State.TRAINED:
            trained.setdefault(move["step"], set()).add(move["group_id"])
    return trained


def _order(ledger: LedgerSnapshot, id_of: Callable[[int], str] | None) -> list[str]:
    """Check that the n-th draw is the n-th prompt of the data order."""
    if id_of is None:
        return []
    started = [(move["group_id"], move["id"]) for move in ledger.moves if "id" in move]
    return [
        f"group {t} is {name}, the data order says {id_of(t)}"
        for t, name in started
        if name != id_of(t)
    ][:SHOWN]


def _updates(ledger: LedgerSnapshot, folder: Path, last: int, groups_per_step: int) -> list[str]:
    """Check that every sealed update has its batch, its line of metrics and the rollouts of the
    same groups.
    """
    import pyarrow.parquet as pq

    trained, logged = _trained(ledger), _logged(folder)[:last]
    problems = []
    if logged != list(range(last)):
        lacking = next(step for step in range(last) if logged[step : step + 1] != [step])
        problems.append(
            f"metrics.jsonl has no line of step {lacking} where it should be; the ledger has sealed"
            f" {last} steps"
        )
    for step in range(last):
        batch, file = trained.get(step, set()), folder / "rollouts" / f"step-{step:05d}.parquet"
        if len(batch) != groups_per_step:
            problems.append(
                f"step {step} was trained on {len(batch)} groups, not {groups_per_step}"
            )
        if not file.is_file():
            problems.append(f"step {step} has no rollouts: {file.name} is missing")
        elif (
            found := set(pq.read_table(file, columns=["group_id"])["group_id"].to_pylist())
        ) != batch:
            problems.append(
                f"{file.name} holds groups {sorted(found - batch)} too many and"
                f" {sorted(batch - found)} too few"
            )
    return problems


def _checkpoints(ledger: LedgerSnapshot, folder: Path) -> list[str]:
    """Check that the kept checkpoints are what was sealed."""
    changed = [path for path in checkpoints(folder / "checkpoints") if _has_changed(ledger, path)]
    return [
        f"{path.name} has changed since its seal" for path in changed if path.is_dir()
    ]  # a live run removes old ones


def _has_changed(ledger: LedgerSnapshot, path: Path) -> bool:
    sealed = {seal["seal"]: seal["checkpoint"] for seal in ledger.seals}
    try:
        return step_of(path) in sealed and inventory(path) != sealed[step_of(path)]
    except FileNotFoundError:  # while it was looked at
        return True


def check_checkpoint(ledger: LedgerSnapshot, path: Path) -> None:
    """Raise LedgerError unless a checkpoint is what its seal says."""
    if _has_changed(ledger, path):
        raise LedgerError(
            f"{path} has changed since its seal; restore it, or delete it to go on from the one"
            " before"
        )
