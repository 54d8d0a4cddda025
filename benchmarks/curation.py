"""Curation: rows a second, ours against datatrove's on the same files and cores; and what ours
needs in memory as rows grow.

Both read Parquet with images, decode and hash pixels, drop what repeats in question and pixels,
filter by length and repetition, and write Parquet; nothing is reported unless both keep exactly the
rows that have to stay. Each has TASKS worker processes on the same TASKS cores. Imports and Ray are
started before the clock, and the first run of each side is not counted. Rates are of wall time; CPU
seconds of all processes of a side stand beside them, since a busy machine blurs the wall.

    python benchmarks/curation.py --make-env DIR --memory 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.command import errors_in_one_line, install
from benchmarks.peers.curation_rows import write_rows
from benchmarks.peers.peaks import Peaks
from benchmarks.peers.talk import Answer, Side, SideError
from bimode.errors import ConfigError

GOAL = 3.0
TASKS = 2
SEED = 0
DATATROVE = "0.10.1"
NEEDS = ("xxhash<4", "orjson", "regex", "tokenizers")  # what its modules import here
SHARED = ("pyarrow", "pillow", "numpy")  # of one version on both sides


@dataclass(frozen=True, slots=True)
class Memory:
    """Highest resident memory in MiB, of the driver and of the largest worker, for `rows` rows."""

    rows: int
    driver: int
    worker: int
    seconds: float


@contextmanager
def side(name: str, python: str, module: str, source: Path, work: Path) -> Iterator[Side]:
    """A side that has started its processes."""
    work.mkdir()
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
    }  # Ray's workers give way to all others by default
    found = Side(
        name,
        python,
        f"benchmarks.peers.{module}",
        [str(source), str(work), str(TASKS)],
        env,
        work / "log",
    )
    try:
        found.answer()
        yield found
    finally:
        found.close()


def kept(work: Path, prefix: str = "") -> set[str]:
    """Ids of the rows in `work`/data, without `prefix`. Raises SideError for an id that is there
    twice.
    """
    import pyarrow.parquet as pq

    ids = [
        id
        for file in (work / "data").glob("*.parquet")
        for id in pq.read_table(file, columns=["id"])["id"].to_pylist()
    ]
    if len(set(ids)) < len(ids):
        raise SideError(f"{work.name}: {len(ids) - len(set(ids))} rows are there twice")
    return {id.removeprefix(prefix) for id in ids}


def check_kept(found: set[str], stay: set[str], name: str) -> None:
    """Raises SideError unless the rows that have to stay are there, and no others."""
    if found != stay:
        raise SideError(
            f"{name} keeps {len(found - stay)} rows that have to go and lacks {len(stay - found)}:"
            " nothing is reported"
        )


def compare(
    rows: int, rounds: int, python: str, inputs: Path, folder: Path
) -> tuple[list[Answer], list[Answer]]:
    """`rounds` runs of each side in turn, after one of each that is not timed."""
    source = inputs / f"input-{rows}"
    stay = write_rows(source, rows, SEED)
    ours, peer = folder / "ours", folder / "peer"
    with (
        side("ours", sys.executable, "our_curation", source, ours) as a,
        side("datatrove", python, "datatrove_side", source, peer) as b,
    ):
        answers = []
        for at in range(rounds + 1):
            answers.append((a.ask(f"run-{at}"), b.ask(f"run-{at}")))
            check_kept(kept(ours / f"run-{at}", "bench-"), stay, "ours")
            check_kept(kept(peer / f"run-{at}"), stay, "datatrove")
            print(
                f"run {at}: ours {_told(answers[-1][0])}; datatrove {_told(answers[-1][1])}",
                flush=True,
            )
    return [one for one, _ in answers[1:]], [other for _, other in answers[1:]]


def measure_memory(rows: int, inputs: Path, folder: Path) -> Memory:
    """Our side on `rows` rows, in processes of its own."""
    source, work = inputs / f"input-{rows}", folder / f"memory-{rows}"
    stay = write_rows(source, rows, SEED)
    peaks = Peaks()
    with side("ours", sys.executable, "our_curation", source, work) as ours:
        peaks.start()
        try:
            answer = ours.ask("run")
            peaks.look()
        finally:
            peaks.end()
    check_kept(kept(work / "run", "bench-"), stay, "ours")
    found = Memory(rows, peaks.driver, peaks.worker, round(answer.seconds, 1))
    print(
        f"{rows} rows: driver {found.driver} MiB, largest worker {found.worker} MiB,"
        f" {_told(answer)}",
        flush=True,
    )
    return found


def report(
    rows: int, runs: tuple[Sequence[Answer], Sequence[Answer]] | None, memory: Sequence[Memory]
) -> dict[str, object]:
    """The line of JSON: rates in rows/s of wall time, `cpu_ratio` of the CPU seconds; without runs
    the ratio is null.
    """
    found: dict[str, object] = {
        "name": "curation",
        "ratio": None,
        "goal": GOAL,
        "ours": None,
        "peer": None,
        "unit": "rows/s",
    }
    if runs:
        rates = [[round(rows / answer.seconds, 1) for answer in side] for side in runs]
        cpu = [median(answer.parts["cpu"] for answer in side) for side in runs]
        ours, peer = map(median, rates)
        found |= {
            "ratio": round(ours / peer, 3),
            "ours": ours,
            "peer": peer,
            "runs": {"ours": rates[0], "peer": rates[1]},
            "rows": rows,
            "tasks": TASKS,
            "cpu_ratio": round(cpu[1] / cpu[0], 3),
            "cpu_us_a_row": {
                "ours": round(cpu[0] / rows * 1e6),
                "peer": round(cpu[1] / rows * 1e6),
            },
        }
    return found | {"memory_mib": [asdict(each) for each in memory]}


def _told(answer: Answer) -> str:
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in answer.parts.items())
    return f"{answer.seconds:.1f} s ({parts})"


def check_datatrove(python: str) -> None:
    """Raises ConfigError unless `python` has the datatrove that the comparison is with."""
    code = "import importlib.metadata as m, PIL; print(m.version('datatrove'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(
            "--datatrove-python", python, f"{error.strerror}; name an interpreter"
        ) from None
    if (found := done.stdout.strip() or "none") != DATATROVE:
        fix = (
            f"has datatrove {found}, not {DATATROVE}; name another, or make one with --make-env DIR"
        )
        raise ConfigError("--datatrove-python", python, fix)


def make_env(folder: Path) -> str:
    """The interpreter of an environment with datatrove and what its blocks need here."""
    return install(
        folder,
        [f"datatrove=={DATATROVE}", *NEEDS, *(f"{name}=={version(name)}" for name in SHARED)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=20_000, help="of the comparison; 0 leaves it out"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each side")
    parser.add_argument(
        "--memory",
        type=int,
        nargs="*",
        default=[10_000, 100_000],
        metavar="ROWS",
        help="sizes for memory",
    )
    parser.add_argument(
        "--input", type=Path, metavar="DIR", help="where the input is kept for another time"
    )
    parser.add_argument(
        "--datatrove-python",
        default=sys.executable,
        help=f"an interpreter with datatrove {DATATROVE}",
    )
    parser.add_argument(
        "--make-env",
        type=Path,
        metavar="DIR",
        help=f"make an environment of datatrove {DATATROVE} there",
    )
    flags = parser.parse_args()
    os.sched_setaffinity(
        0, sorted(os.sched_getaffinity(0))[:TASKS]
    )  # both sides alike; processes inherit it
    with errors_in_one_line(), TemporaryDirectory() as name:
        folder, runs = Path(name), None
        kept_input = (flags.input or folder).resolve()
        if flags.rows:
            python = make_env(flags.make_env) if flags.make_env else flags.datatrove_python
            check_datatrove(python)
            runs = compare(flags.rows, flags.rounds, python, kept_input, folder)
        memory = [measure_memory(rows, kept_input, folder) for rows in flags.memory]
        print(json.dumps(report(flags.rows, runs, memory)))


if __name__ == "__main__":
    main()
