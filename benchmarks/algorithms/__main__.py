"""The command: goes on where it was stopped, and writes table and picture after each run."""

from __future__ import annotations

import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.algorithms import VARIANTS
from bimode.errors import BimodeError

if TYPE_CHECKING:
    from benchmarks.algorithms.runs import Variant

# Everything else is imported where main() hears Ctrl-C: a recipe's classes are slow to load.


def compare(
    annealed: Annotated[Path, typer.Argument(help="a run in which what comes before BPO is done")],
    recipe: Annotated[Path, typer.Argument(help="its recipe")],
    out: Annotated[
        Path,
        typer.Option(
            help="where the runs, table.md and picture.png go; a finished run there is not repeated"
        ),
    ],
    seeds: Annotated[str, typer.Option(help="comma between them")] = "0",
    only: Annotated[str, typer.Option(help="variants whose name contains this")] = "",
    variants: Annotated[Path, typer.Option(help="what is compared")] = VARIANTS,
    jobs: Annotated[
        int, typer.Option(min=1, help="runs at a time; a tiny one keeps about one core busy")
    ] = 1,
    common: Annotated[
        list[str] | None,
        typer.Option("--set", help="for every variant, e.g. bpo.rollout_tokens=400000"),
    ] = None,
) -> None:
    """Trains every variant from the annealed model of a run, seed by seed, and compares what they
    became.
    """
    from benchmarks.algorithms.runs import (
        check_annealed,
        check_reused,
        check_variants,
        read_seeds,
        read_variants,
    )

    numbers, chosen, overrides = (
        read_seeds(seeds),
        read_variants(variants, only),
        tuple(common or ()),
    )
    check_annealed(annealed, recipe)
    check_variants(recipe, chosen, overrides)
    tasks = [(variant, seed) for seed in numbers for variant in chosen]
    check_reused(annealed, recipe, out, tasks, overrides)
    failed = _run(annealed, recipe, out, tasks, overrides, jobs, read_variants(variants))
    if (out / "table.md").is_file():
        typer.echo((out / "table.md").read_text())
    if failed:
        raise typer.Exit(1)


def _run(
    annealed: Path,
    recipe: Path,
    out: Path,
    tasks: list[tuple[Variant, int]],
    overrides: tuple[str, ...],
    jobs: int,
    variants: list[Variant],
) -> bool:
    """Runs the tasks, `jobs` at a time, and reports after each; whether one failed."""
    from benchmarks.algorithms.runs import FailedRunError, run_one

    failed, pool, over = False, ThreadPoolExecutor(jobs), Event()
    try:
        queue = iter(tasks)
        waiting: set[Future[Path]] = set()
        # No more are handed over than run: a pool would begin the next where Ctrl-C has ended one
        # and is not seen here yet.
        while (
            begun := {
                pool.submit(run_one, annealed, recipe, out, variant, seed, overrides, over)
                for variant, seed in islice(queue, jobs - len(waiting))
            }
            | waiting
        ):
            done, waiting = wait(begun, return_when=FIRST_COMPLETED)
            for error in filter(None, (future.exception() for future in done)):
                if not isinstance(error, FailedRunError):
                    raise error
                failed = True
                typer.echo(f"error: {error}", err=True)
            _report(out, variants)
    # Ctrl-C, which the runs hear too, begins no other, wherever it falls; nor does an error
    finally:
        over.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _report(out: Path, variants: list[Variant]) -> None:
    """Table and picture of every finished run in `out`, those of earlier calls too, in the order of
    the variants.
    """
    from benchmarks.algorithms.output import draw, markdown
    from benchmarks.algorithms.runs import finished_runs
    from benchmarks.algorithms.scores import annealed_scores, variant_scores

    if runs := finished_runs(out, variants):
        start = next(iter(runs.values()))[0]
        lines = [
            annealed_scores(start),
            *(variant_scores(name, folders) for name, folders in runs.items()),
        ]
        (out / "table.md").write_text(markdown(lines))
        draw(runs, lines, out / "picture.png")


def main() -> None:
    """Runs the command and exits; a mistake is one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(compare)
    try:
        app(prog_name="python -m benchmarks.algorithms")
    except BimodeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
