"""The command: goes on where it was stopped, and writes table and picture after each run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.algorithms.output import draw, markdown
from benchmarks.algorithms.runs import (
    VARIANTS,
    FailedRunError,
    check_annealed,
    check_variants,
    read_seeds,
    read_variants,
    run_one,
)
from benchmarks.algorithms.scores import annealed_scores, variant_scores
from bimode.errors import BimodeError


def compare(
    annealed: Annotated[Path, typer.Argument(help="a run with curate/ and anneal/")],
    recipe: Annotated[Path, typer.Argument(help="its recipe")],
    out: Annotated[Path, typer.Option(help="where the runs, table.md and picture.png go; a finished run there is not repeated")],
    seeds: Annotated[str, typer.Option(help="comma between them")] = "0",
    only: Annotated[str, typer.Option(help="variants whose name contains this")] = "",
    variants: Annotated[Path, typer.Option(help="what is compared")] = VARIANTS,
    common: Annotated[list[str] | None, typer.Option("--set", help="for every variant, e.g. bpo.rollout_tokens=400000")] = None,
) -> None:
    """Trains every variant from the annealed model of a run, seed by seed, and compares what they became."""
    numbers, chosen = read_seeds(seeds), read_variants(variants, only)
    check_annealed(annealed)
    check_variants(recipe, chosen, tuple(common or ()))
    runs: dict[str, list[Path]] = {}
    failed = False
    for seed in numbers:
        for variant in chosen:
            try:
                run = run_one(annealed, recipe, out, variant, seed, tuple(common or ()))
            except FailedRunError as error:
                failed = True
                typer.echo(f"error: {error}", err=True)
                continue
            runs.setdefault(variant.name, []).append(run)
            lines = [annealed_scores(run), *(variant_scores(name, folders) for name, folders in runs.items())]
            (out / "table.md").write_text(markdown(lines))
            draw(runs, lines, out / "picture.png")
    if runs:
        typer.echo((out / "table.md").read_text())
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command and exits; a mistake is one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(compare)
    try:
        app(prog_name="python -m benchmarks.algorithms")
    except BimodeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
