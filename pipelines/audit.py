"""`bimode audit DIR`: where every question of a BPO run has gone, and whether the audit passes
(`bimode.rl.audit`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bimode.errors import ConfigError
from bimode.inputs.control_characters import printable
from bimode.storage.run_dir import digest_path, read_json
from pipelines.saved_recipe import saved_recipe


def audit_run(run: Path) -> int:
    """Prints the counts, notes and problems of DIR/bpo; 1 if there are problems. Raises
    ConfigError, LedgerError.
    """
    from bimode.rl.audit import audit

    recipe = saved_recipe(run)
    begun = any(
        (run / "bpo" / name).exists() for name in ("ledger", "checkpoints", "manifest.json")
    )
    if recipe is None or not begun:
        raise ConfigError(
            "DIR", run, "has no bpo/ledger: its BPO has not begun, or this is not what --out named"
        )
    sealed, claim = (
        read_json(run / "bpo" / name) or {} for name in ("manifest.json", "claim.json")
    )
    own = (
        sealed.get("config") or claim.get("settings") or recipe
    )  # the run's may by now be another stage's
    found = audit(run / "bpo", own["bpo"]["prompts_per_step"], _data_order(run, own["seed"]))
    title = f"{run}: {found.started} groups started, {found.sealed_steps} updates sealed"
    table = Table(*found.counts, title=title, box=SIMPLE_HEAD)  # 80 columns hold all states
    table.add_row(*map(str, found.counts.values()))
    console = Console()
    console.print(table)
    for note in found.notes:
        console.print(printable(f"note: {note}"), soft_wrap=True, markup=False)
    for problem in found.problems:
        console.print(
            printable(f"PROBLEM: {problem}"), style="bold red", soft_wrap=True, markup=False
        )
    console.print("the books do not close" if found.problems else "the audit passes")
    return 1 if found.problems else 0


def _data_order(run: Path, seed: int) -> Callable[[int], str] | None:
    """Id of the n-th question, where the data that the run draws from is still there: curation may
    have published since.
    """
    from bimode.inputs.prompts import prompt_ids
    from bimode.rl.prompt_order import item_of

    digest = (read_json(run / "bpo" / "claim.json") or {}).get("inputs", {}).get("data")
    there = dict.fromkeys(
        folder.resolve()
        for folder in (run / "curate" / "data", *sorted(run.glob("curate/versions/*/data")))
    )
    data = next((folder for folder in there if folder.is_dir() and _is(folder, digest)), None)
    if data is None:
        return None
    ids = prompt_ids(data, "rl")
    return lambda group_id: ids[item_of(group_id, len(ids), seed)]


def _is(data: Path, digest: str | None) -> bool:
    """Other versions are told by their manifests; that the one which claims to be it is so still,
    only by its files.
    """
    sealed = (read_json(data.parent / "manifest.json") or {}).get("outputs", {})
    return bool(sealed.get("data", digest) == digest == digest_path(data))


if __name__ == "__main__":
    from pipelines import main

    main("audit")
