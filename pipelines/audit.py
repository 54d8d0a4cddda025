"""`bimode audit DIR`: whether every prompt of a BPO run is accounted for (`bimode.rl.audit`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bimode.errors import ConfigError
from bimode.inputs.text import printable
from bimode.storage.run_dir import digest_path, read_json
from pipelines.saved_recipe import saved_recipe

PASSED = "audit passed: every prompt is accounted for"
FAILED = "audit failed: see the problems above"


def audit_run(run: Path) -> int:
    """Print the counts, notes and problems of DIR/bpo. Returns 1 if there are problems.

    Raises ConfigError where BPO has not begun, and LedgerError for a damaged ledger.
    """
    from bimode.rl.audit import audit

    stage = run / "bpo"
    recipe = saved_recipe(run)
    has_begun = any((stage / name).exists() for name in ("ledger", "checkpoints", "manifest.json"))
    if recipe is None or not has_begun:
        fix = "has no bpo/ledger: its BPO has not begun, or this is not what --out named"
        raise ConfigError("DIR", run, fix)
    manifest = read_json(stage / "manifest.json") or {}
    claim = read_json(stage / "claim.json") or {}
    # The recipe of the run may by now be that of another stage.
    settings = manifest.get("config") or claim.get("settings") or recipe
    data = (claim.get("inputs") or {}).get("data")
    order = _data_order(run, data, settings["seed"])
    found = audit(stage, settings["bpo"]["prompts_per_step"], order)
    title = f"{run}: {found.started} groups started, {found.sealed_steps} updates sealed"
    table = Table(*found.counts, title=title, box=SIMPLE_HEAD)  # 80 columns hold all states
    table.add_row(*map(str, found.counts.values()))
    console = Console()
    console.print(table)
    for note in found.notes:
        console.print(printable(f"note: {note}"), soft_wrap=True, markup=False)
    for problem in found.problems:
        line = printable(f"PROBLEM: {problem}")
        console.print(line, style="bold red", soft_wrap=True, markup=False)
    console.print(FAILED if found.problems else PASSED)
    return 1 if found.problems else 0


def _data_order(run: Path, digest: str | None, seed: int) -> Callable[[int], str] | None:
    """Returns the function from a group to its prompt's id.

    `digest` is that of the data that the run draws from. Curation may have published a newer
    version since; None where the run's own is gone.
    """
    from bimode.inputs.prompt_limits import prompt_ids
    from bimode.rl.rollout_task import item_of

    folders = [run / "curate" / "data", *sorted(run.glob("curate/versions/*/data"))]
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        if folder.is_dir() and _has_digest(folder, digest):
            ids = prompt_ids(folder, "rl")
            return lambda group_id: ids[item_of(group_id, len(ids), seed)]
    return None


def _has_digest(data: Path, digest: str | None) -> bool:
    """Whether the files in `data` have this digest. They are read only if the manifest agrees."""
    outputs = (read_json(data.parent / "manifest.json") or {}).get("outputs", {})
    return outputs.get("data", digest) == digest and digest_path(data) == digest


if __name__ == "__main__":
    from pipelines import main

    main("audit")
