"""A run directory of any name: its files are read with their own columns, and no others with
them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_curation.parquet_sql import on_disk, parquet
from data_curation.publishing.report import ReportContext, read_costs, render
from data_curation.publishing.row_history import load_history
from data_curation.sampling.cache import MOST_PARTS, Reply, compact, parts_of, write_replies
from data_curation.tagging.tagging import Passes, count_passes
from tests.data_curation.curated_run import DIGITS, HASH, OTHER_HASH, curate
from tests.data_curation.deciding import Case, reasons, run

NAMES = ("a?b", "a*b", "a[b]", "it's", "a#b 50%", "split=eval", "mode=x", "reason=none")


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_named_is_read(tmp_path: Path, name: str) -> None:
    for folder, mode in ((name, "own"), ("aXb", "other"), ("ab", "other")):
        (tmp_path / folder).mkdir()
        pq.write_table(
            pa.table({"mode": [mode], "split": ["rl"], "reason": [""]}),
            tmp_path / folder / "f.parquet",
        )
    with on_disk(tmp_path / name, {"memory_limit": "64MB"}) as db:
        file = tmp_path / name / "f.parquet"
        db.execute(f"CREATE TABLE kept AS SELECT * FROM {parquet([file], 'filename = true')}")
        assert db.execute("FROM kept").fetchall() == [("own", "rl", "", str(file))]


@pytest.mark.parametrize("name", NAMES)
def test_decisions_and_stories_are_those_of_any_directory(tmp_path: Path, name: str) -> None:
    """`split=eval` once was the split of every row below it, and `mode=x` the mode of every
    attempt.
    """
    folder = tmp_path / name
    folder.mkdir()
    run(folder, [Case("a"), Case("b")], [Case("item", "eval", question="another ?")])
    assert reasons(folder) == {"a": ("", "", ""), "b": ("duplicate", "a", ""), "item": ("", "", "")}
    curated = curate(folder / "run")
    story = load_history(curated.run, DIGITS.format(4))
    assert [(stored.row["split"], stored.row["mode"], stored.reason) for stored in story.rows] == [
        ("train", "thinking", "")
    ]
    assert sum(attempt.counted for attempt in story.attempts) == 16
    assert {cost.params_hash for cost in read_costs(curated.run / "cache")} == {HASH, OTHER_HASH}
    assert "digits" in render(curated.store, curated.published, ReportContext())


@pytest.mark.parametrize("name", ["mode=x", "a?b"])
def test_attempts_are_counted_in_any_directory(tmp_path: Path, name: str) -> None:
    for number in range(MOST_PARTS + 1):
        reply = Reply("7", "c", "thinking", number, 0, "right", 1.0, 3, "a", "")
        write_replies(tmp_path / name, [reply])
    chosen = pa.table({"id": ["7"], "content": ["c"]})
    assert count_passes(tmp_path / name, chosen, 2) == {"7": Passes(thinking=2, tried=2)}
    compact(tmp_path / name)
    assert len(parts_of(tmp_path / name)) == 1
    assert count_passes(tmp_path / name, chosen, 99).popitem()[1].thinking == MOST_PARTS + 1
