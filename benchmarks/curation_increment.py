"""What a later curation costs: nothing new, and one new file beside those that were there, against
the first one's generation.

The files hold pictures of the built-in families, repeats among them (`peers.curation_rows`), tagged
by the model in `assets/`. What was generated is counted in the cache: attempts, and tokens in them.

    python benchmarks/curation_increment.py --rows 2000 --new 20
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.curation_kills import curate
from benchmarks.drills import REPO

GOAL = 0.05  # of the first call's attempts, for 1 % new rows
SEED = 7
RECIPE = """name = "increment"
stages = ["curate"]
[model]
base = "{base}"
[[curate.sources]]
path = "{files}"
name = "pictures"
[curate.sources.columns]
question = "question"
answer = "answer"
images = "images"
trace = "trace"
id = "id"
[curate.rollouts]
n = 4
max_tokens = 64
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of curation: what it took, and the attempts and their tokens that it added to the
    cache.
    """

    name: str
    seconds: float
    attempts: int
    tokens: int


def write_files(folder: Path, rows: int, new: int) -> None:
    """`rows` rows in one file below `folder`/there, the `new` ones that follow them in another
    below `folder`/new.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.peers.curation_rows import SCHEMA, draw_rows

    sampled = draw_rows(rows + new, SEED)
    for name, many in (("there", rows), ("new", new)):
        (folder / name).mkdir(parents=True)
        table = pa.Table.from_pylist([row for row, _ in islice(sampled, many)], SCHEMA)
        pq.write_table(table, folder / name / f"{name}.parquet", row_group_size=500)


def generated(run: Path) -> tuple[int, int]:
    """Attempts in the cache of `run`, and their tokens."""
    import pyarrow.parquet as pq

    parts = (run / "cache" / "rollouts").glob("*/part-*.parquet")
    tokens = [
        pq.read_table(part, columns=["num_tokens"])["num_tokens"].to_pylist() for part in parts
    ]
    return sum(map(len, tokens)), sum(map(sum, tokens))


def call(name: str, recipe: Path, run: Path) -> Call:
    """Curates, and counts what has been added."""
    before, began = generated(run), time.monotonic()
    curate(recipe, run, None, run.with_suffix(".txt"))
    attempts, tokens = (now - was for now, was in zip(generated(run), before, strict=True))
    found = Call(name, round(time.monotonic() - began, 1), attempts, tokens)
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--new", type=int, default=20)
    flags = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, flags.rows, flags.new)
        recipe = folder / "increment.toml"
        recipe.write_text(
            RECIPE.format(base=REPO / "assets" / "tiny-annealed", files=folder / "there")
        )
        calls = [call("first", recipe, folder / "run"), call("nothing new", recipe, folder / "run")]
        (folder / "new" / "new.parquet").rename(folder / "there" / "new.parquet")
        calls.append(call(f"{flags.new} new rows", recipe, folder / "run"))
        first, _, last = calls
        ratio = last.attempts / first.attempts
        print(
            json.dumps(
                {
                    "name": "curation_increment",
                    "ratio": ratio,
                    "goal": GOAL,
                    "runs": [asdict(each) for each in calls],
                }
            )
        )


if __name__ == "__main__":
    main()
