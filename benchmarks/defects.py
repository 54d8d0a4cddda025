"""Planted defects: 20,000 rows with copies, leaks, wrong answers, broken pictures and more; how
many of them each stage finds.

The real command reads the files, removes what it removes, and is then held against the table of
what was planted. Nothing is tagged (every row is exported in both formats), so wrong answers are
found by their traces or not at all.

    python benchmarks/defects.py --out runs/defects
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from benchmarks.defect_data.files import Truth, write, write_recipe
from benchmarks.defect_data.kinds import FULL
from benchmarks.defect_data.plant import Planter
from benchmarks.defect_data.scoring import (
    GOAL,
    KIND,
    KindScore,
    StageScore,
    lost,
    read_outcome,
    score_kinds,
    score_modes,
    score_stages,
    unexpected,
    worst,
)

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=FULL,
        help="rows, of which about a quarter is planted (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the rows and of what is planted")
    parser.add_argument(
        "--out", type=Path, help="keep sources and run there; without it both are gone afterwards"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the recipe, e.g. curate.dedup.ngram=13",
    )
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = options.out or Path(name)
        truth = plant(folder, options.rows, options.seed)
        seconds = curate(folder, [word for change in options.set for word in ("--set", change)])
        report(folder / "run" / "curate", truth, seconds)


def plant(folder: Path, rows: int, seed: int) -> list[Truth]:
    """Writes sources, truth and recipe below `folder`."""
    began = time.monotonic()
    try:
        planter = Planter(rows, seed)
    except ValueError as error:
        raise SystemExit(f"error: --rows = {rows}: {error}") from None
    truth = write(planter.records(), folder / "sources")
    write_recipe(folder / "sources", folder / "defects.toml", rows, seed)
    print(
        f"planted in {time.monotonic() - began:.0f} s: {rows} rows and {len(truth) - rows}"
        " evaluation items",
        flush=True,
    )
    return truth


def curate(folder: Path, changes: list[str]) -> float:
    """Runs the stage; returns its seconds."""
    words = [
        sys.executable,
        "-m",
        "pipelines.curate",
        str(folder / "defects.toml"),
        "--out",
        str(folder / "run"),
        *changes,
    ]
    began = time.monotonic()
    with (folder / "curate.log").open("wb") as log:
        code = subprocess.run(words, cwd=REPO, stdout=log, stderr=log).returncode
    if code:
        raise SystemExit(
            f"error: curation ended with code {code}; the end of what it"
            f" said:\n{_end(folder / 'curate.log')}"
        )
    return time.monotonic() - began


def report(curated: Path, truth: Sequence[Truth], seconds: float) -> None:
    """Prints what became of every kind, the score of every stage and, last, the line of JSON."""
    outcome = read_outcome(curated, truth)
    missing, twice = lost(truth, outcome)
    kinds, stages = score_kinds(truth, outcome), score_stages(truth, outcome)
    modes = score_modes(curated, truth)
    console = Console(width=130)
    console.print(kind_table(kinds))
    console.print(stage_table(stages + ([modes] if modes else [])))
    console.print(
        f"curated in {seconds:.0f} s, {len(truth) / seconds:.0f} rows/s; tags:"
        f" {'scored' if modes else 'none to score'}"
    )
    console.print(
        f"in neither data nor rejects: {len(missing)} {missing[:5]}, in both: {len(twice)}"
        f" {twice[:5]}"
    )
    console.print(f"rejects that are no row: {dict(outcome.strangers) or 'none'}")
    value = worst(stages)
    runs = [
        asdict(s) | {"recall": s.recall, "precision": s.precision}
        for s in stages + ([modes] if modes else [])
    ]
    print(
        json.dumps(
            {
                "name": "defects",
                "ratio": round(value / GOAL, 4),
                "goal": 1.0,
                "ours": round(value, 4),
                "peer": None,
                "unit": "min(recall, precision)",
                "runs": runs,
            }
        )
    )
    if missing or twice:
        raise SystemExit("error: kept + rejected is not what went in")


def kind_table(scores: Sequence[KindScore]) -> Table:
    """What became of the rows of each kind; a mark where some are not where they belong."""
    table = Table("", "kind", "stage", title="planted rows")
    for name in ("planted", "removed rightly", "kept"):
        table.add_column(name, justify="right")
    table.add_column("removed for another reason")
    for score in scores:
        kind = KIND[score.kind]
        others = ", ".join(f"{reason} {count}" for reason, count in score.others.items())
        mark = "!" if unexpected(kind, score) else ""
        numbers = (str(n) for n in (score.planted, score.found, score.kept))
        table.add_row(mark, score.kind, kind.stage or "must stay", *numbers, others)
    return table


def stage_table(scores: Sequence[StageScore]) -> Table:
    """Recall and precision of each stage with their counts; a mark where a goal is missed."""
    table = Table("", "stage", title=f"stages (! is below {GOAL})")
    for name in ("planted", "found", "recall", "removed", "right", "precision", "goal"):
        table.add_column(name, justify="right")
    for s in scores:
        mark = "!" if s.goal and s.worst < GOAL else ""
        goal = str(GOAL) if s.goal else ""
        counts = (str(n) for n in (s.planted, s.found))
        table.add_row(
            mark,
            s.stage,
            *counts,
            _share(s.recall),
            str(s.removed),
            str(s.right),
            _share(s.precision),
            goal,
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


if __name__ == "__main__":
    main()
