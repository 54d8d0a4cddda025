"""Every judged response of a model as JSON lines: what the numbers are made of, what a stopped
evaluation keeps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bimode.evaluation.routing import ItemResult, Outcome
from bimode.modes import Mode
from bimode.storage.run_dir import write_atomic


def write_results(path: Path, items: Sequence[ItemResult]) -> None:
    """One line an item, all at once: the file is whole or absent."""
    write_atomic(
        path, "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    )


def read_results(path: Path) -> list[ItemResult]:
    """The inverse of `write_results`."""
    with path.open() as lines:  # a text may hold U+2028, which ends a line for `splitlines` alone
        return [_item(json.loads(line)) for line in lines]


def _item(row: dict) -> ItemResult:
    return ItemResult(
        id=row["id"],
        task=row["task"],
        level=row["level"],
        question=row["question"],
        greedy={Mode(mode): Outcome(**outcome) for mode, outcome in row["greedy"].items()},
        sampled={
            Mode(mode): tuple(Outcome(**o) for o in outcomes)
            for mode, outcomes in row["sampled"].items()
        },
        refused=row.get("refused", ""),  # absent from what was kept before there were any
    )
