"""The command: goes on where it was stopped, and writes table and picture after each run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.algorithms.output import draw, markdown
from benchmarks.algorithms.runs import VARIANTS, FailedRunError, read_variants, run_one
from benchmarks.algorithms.scores import annealed_scores, variant_scores


def compare(
    annealed: Annotated[Path, typer.Argument(help="a run with curate/ and anneal/", exists=True, file_okay=False)],
    recipe: Annotated[Path, typer.Argument(help="its recipe", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="where the runs, table.md and picture.png go")],
    seeds: Annotated[str, typer.Option(help="comma between them")] = "0",
    only: Annotated[str, typer.Option(help="variants whose name contains this")] = "",
    variants: Annotated[Path, typer.Option(help="what is compared", exists=True)] = VARIANTS,
    common: Annotated[list[str] | None, typer.Option("--set", help="for every variant, e.g. bpo.rollout_tokens=400000")] = None,
) -> None:
    """Trains every variant from the annealed model of a run, seed by seed, and compares what they became."""
    chosen = [v for v in read_variants(variants) if only.lower() in v.name.lower()]
    runs: dict[str, list[Path]] = {}
    for seed in map(int, seeds.split(",")):
        for variant in chosen:
            try:
                run = run_one(annealed, recipe, out, variant, seed, tuple(common or ()))
            except FailedRunError as error:
                typer.echo(str(error), err=True)
                continue
            runs.setdefault(variant.name, []).append(run)
            lines = [annealed_scores(run), *(variant_scores(name, folders) for name, folders in runs.items())]
            (out / "table.md").write_text(markdown(lines))
            draw(runs, lines, out / "picture.png")
    if not runs:
        raise typer.Exit(1)
    typer.echo((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(compare)
