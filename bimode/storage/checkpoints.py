"""Checkpoint folders: ``ROOT/step-000200``. A checkpoint appears in one piece, and only the newest
are kept.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from bimode.storage.run_dir import digest_json, read_json, to_disk, write_atomic

NAME = re.compile(r"step-(\d+)")
LAST_SEAL = "last_seal.json"


@dataclass(frozen=True, slots=True)
class LastSeal:
    """The last seal of the ledger, noted outside of it once it is on disk: the ledger cannot lose
    it unseen.
    """

    step: int
    digest: str  # of every byte of the ledger before the seal


def read_last_seal(root: Path) -> LastSeal | None:
    """Return the note beside the checkpoints, or None before the first seal. Raises ConfigError for
    another file.
    """
    found = read_json(root / LAST_SEAL)
    return None if found is None else LastSeal(int(found["step"]), str(found["digest"]))


def write_last_seal(root: Path, seal: LastSeal | None) -> None:
    """Replace the note; None says that there is no seal to resume from."""
    if seal is None:
        (root / LAST_SEAL).unlink(missing_ok=True)
    else:
        write_atomic(root / LAST_SEAL, json.dumps(asdict(seal)))


def checkpoint_path(root: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` optimizer steps."""
    return root / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """Return the optimizer steps of a checkpoint folder."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is no checkpoint folder (step-000200)")
    return int(match[1])


def checkpoints(root: Path) -> list[Path]:
    """Return the published checkpoints below `root`, oldest first; a folder that is still being
    written has another name.
    """
    found = root.iterdir() if root.is_dir() else ()
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=step_of)


def latest(root: Path) -> Path | None:
    """Return the newest published checkpoint, or None."""
    return next(reversed(checkpoints(root)), None)


def inventory(path: Path) -> str:
    """Return the digest of the names and sizes of a checkpoint's files, which may be too large to
    be read again.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_json([(str(p.relative_to(path)), p.stat().st_size) for p in files])


def partial_path(path: Path) -> Path:
    """Return where `path` is written before `publish` renames it."""
    return path.with_name(f".partial-{path.name}")


def publish(path: Path, keep: int | None = None) -> None:
    """Rename the finished partial folder to `path`, which is then on disk; with `keep`, remove all
    but the newest `keep` checkpoints beside it.
    """
    partial = partial_path(path)
    to_disk(*partial.rglob("*"), partial)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    to_disk(path.parent)
    if keep is not None:
        for old in checkpoints(path.parent)[:-keep]:
            old.rename(partial_path(old))  # one that is half gone is no checkpoint
        for gone in path.parent.glob(
            partial_path(Path("step-*")).name
        ):  # also what a kill has left of one before
            shutil.rmtree(gone)
