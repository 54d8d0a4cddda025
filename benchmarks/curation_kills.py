"""Curation killed at random, again and again: what is published, what is sampled twice, whether the
bytes are a whole run's.

Each round starts in an empty directory, is killed (SIGKILL, its whole tree) a few times at random,
and is then left to its end.

    python benchmarks/curation_kills.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.drills import command, ray_was_late

KILLS_A_ROUND = 4
RECIPE = """name = "kills"
stages = ["curate"]
[curate]
train = 96
rl = 8
eval = 9
[[curate.sources]]
family = "digits"
[curate.rollouts]
n = 2
max_tokens = 12
"""


@dataclass(slots=True)
class Tally:
    """What all rounds came to."""

    kills: int = 0
    rounds: int = 0
    half_published: int = 0  # a reader would have seen something else than nothing or the whole
    attempts: int = 0
    twice: int = 0  # attempts that stand in the cache more than once
    bytes_differ: int = 0
    killed_after_s: list[float] = field(default_factory=list)


def published(run: Path) -> dict[str, bytes]:
    """What a reader sees of the data: file -> bytes; times stand in the manifest, which is left
    out.
    """
    shown = run / "curate"
    names = [
        shown / name
        for name in (
            "data",
            "tags",
            "rejects",
            "index.parquet",
            "README.md",
            "report.html",
            "croissant.json",
        )
    ]
    files = [
        file
        for at in names
        for file in (sorted(at.rglob("*")) if at.is_dir() else [at])
        if file.is_file()
    ]
    return {str(file.relative_to(shown)): file.read_bytes() for file in files}


def attempts(run: Path) -> list[tuple[str, str, str, int]]:
    """Every attempt that the cache holds, as often as it holds it."""
    import pyarrow.parquet as pq

    parts = sorted((run / "cache" / "rollouts").glob("*/part-*.parquet"))
    columns = ["id", "content", "mode", "number"]
    return [
        tuple(row[name] for name in columns)
        for part in parts
        for row in pq.read_table(part, columns=columns).to_pylist()
    ]


def curate(recipe: Path, run: Path, kill_after_s: float | None, log: Path) -> bool:
    """Runs the stage; True if it came to its end before it was killed."""
    with command(
        ["pipelines.curate", str(recipe), "--out", str(run)], log, kill_after_s
    ) as process:
        code = process.wait()
    if code == 1 and ray_was_late(log):
        log.unlink()
        return curate(recipe, run, kill_after_s, log)
    if code not in (0, -9):
        raise SystemExit(
            f"error: curation ended with code {code}; see its end:\n{log.read_text()[-2000:]}"
        )
    return code == 0


def round_of(
    recipe: Path,
    run: Path,
    kills: int,
    whole: dict[str, bytes],
    seconds: float,
    rng: random.Random,
    tally: Tally,
) -> float:
    """Kills a new run `kills` times (fewer if it is done before), lets it end, and looks at what
    there is.

    Returns how long a whole run takes: `seconds`, or less where one was done before it was to be
    killed, as on a machine that was busy at first.
    """
    log = run.with_suffix(".txt")
    for number in range(kills):
        after, began = rng.uniform(1.0, seconds), time.monotonic()
        if curate(recipe, run, after, log):
            seconds = min(seconds, time.monotonic() - began) if number == 0 else seconds
            break
        tally.kills += 1
        tally.killed_after_s.append(round(after, 1))
        tally.half_published += published(run) not in ({}, whole)
    curate(recipe, run, None, log)
    made = attempts(run)
    tally.rounds += 1
    tally.attempts += len(made)
    tally.twice += len(made) - len(set(made))
    tally.bytes_differ += published(run) != whole
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "kills.toml"
        recipe.write_text(RECIPE)
        began = time.monotonic()
        curate(recipe, folder / "whole", None, folder / "whole.txt")
        seconds, whole = time.monotonic() - began, published(folder / "whole")
        tally, rng = Tally(), random.Random(flags.seed)
        while tally.kills < flags.kills:
            kills = min(KILLS_A_ROUND, flags.kills - tally.kills)
            seconds = round_of(
                recipe, folder / f"round-{tally.rounds}", kills, whole, seconds, rng, tally
            )
            print(tally, flush=True)
        sound = not (tally.half_published or tally.twice or tally.bytes_differ)
        end = {
            "name": "curation_kills",
            "ratio": float(sound),
            "goal": 1.0,
            "whole_s": seconds,
            "runs": [asdict(tally)],
        }
        print(json.dumps(end))


if __name__ == "__main__":
    main()
