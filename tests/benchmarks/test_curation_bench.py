"""The curation benchmark without its minutes: its rows, that both sides are asked for the same, and
what is reported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import curation
from benchmarks.peers import curation_rows, datatrove_side, our_curation
from benchmarks.peers.peaks import high_water, name_of
from benchmarks.peers.talk import Answer, SideError
from bimode.config.curate import FilterConfig
from bimode.records import Sample
from bimode.storage.dataset import image_digest
from data_curation.checks import filters
from data_curation.checks.validate import check_rows
from data_curation.dedup.fingerprints import content_key
from data_curation.sources import ingest
from data_curation.sources.layouts import read_record

REPO = Path(__file__).resolve().parents[2]
ROWS, SEED = 400, 5


@cache
def sampled() -> list[tuple[dict[str, Any], bool]]:
    return list(curation_rows.draw_rows(ROWS, SEED))


def key_of(row: dict[str, Any]) -> str:
    """By what our side compares rows."""
    return content_key(row["question"], image_digest([image["bytes"] for image in row["images"]]))


def document(row: dict[str, Any], file: str = "rows-00000.parquet") -> Any:
    """`row` as datatrove's reader hands it on."""
    rest = {name: value for name, value in row.items() if name not in ("id", "question")}
    return SimpleNamespace(id=row["id"], text=row["question"], metadata=rest | {"file_path": file})


def sound(row: dict[str, Any]) -> bool:
    return filters.filter_row(row["question"], row["answer"], row["trace"], FilterConfig()) == (
        "",
        "",
    )


def test_what_has_to_stay_is_what_our_rules_say() -> None:
    """The first of each key stays unless the filter stops it; every kind of row is there."""
    seen: set[str] = set()
    for row, stays in sampled():
        key = key_of(row)
        assert stays == (key not in seen and sound(row)), row["id"]
        seen.add(key)
    kinds = Counter(stays for _, stays in sampled())
    assert 0.05 * ROWS < ROWS - len(seen) < 0.16 * ROWS and kinds[False] > ROWS - len(seen)


def test_a_copy_is_told_only_by_its_pixels_and_canonical_question() -> None:
    """Neither the question as it stands nor the bytes of its picture are those of the row that it
    repeats.
    """
    first: dict[str, dict[str, Any]] = {}
    copies = [
        (row, first[key_of(row)])
        for row, _ in sampled()
        if first.setdefault(key_of(row), row) is not row
    ]
    assert len(copies) > 0.05 * ROWS
    for copy, original in copies:
        assert (
            copy["question"] != original["question"]
            and copy["images"][0]["bytes"] != original["images"][0]["bytes"]
        )
        assert copy["trace"] == original["trace"]


def test_beyond_the_pictures_each_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows need no more pictures, and no question repeats by that."""
    monkeypatch.setattr(curation_rows, "PICTURES", 30)
    rows = [(row, stays) for row, stays in curation_rows.draw_rows(200, SEED)]
    assert len({image_digest([row["images"][0]["bytes"]]) for row, _ in rows}) == 30
    keys = [key_of(row) for row, stays in rows if stays]
    assert len(keys) == len(set(keys)) > 150


def test_written_rows_are_the_drawn_ones_and_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curation_rows, "FILE_ROWS", 150)
    stay = curation_rows.write_rows(tmp_path / "in", ROWS, SEED)
    files = sorted((tmp_path / "in").glob("*.parquet"))
    assert [file.name for file in files] == [f"rows-{at:05d}.parquet" for at in range(3)]
    assert pa.concat_tables(map(pq.read_table, files)).to_pylist() == [
        dict(sorted_row(row)) for row, _ in sampled()
    ]
    assert stay == {row["id"] for row, stays in sampled() if stays}
    files[0].unlink()
    assert curation_rows.write_rows(tmp_path / "in", ROWS, SEED) == stay and not files[0].exists()


def sorted_row(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, row[name]) for name in curation_rows.SCHEMA.names]


def test_every_row_is_sound_to_our_checks() -> None:
    """What our side loses, it loses to filter and deduplication, as the other side does."""
    source = our_curation.recipe(Path("/nowhere")).sources[0]
    samples = [read_record(row, source, "ref", lambda name: b"") for row, _ in sampled()]
    rows = [
        ingest.candidate_row(sample, "train") for sample in samples if isinstance(sample, Sample)
    ]
    assert len(rows) == ROWS and {checked.reason for checked in check_rows(rows)} == {""}
    assert {row["id"] for row in rows} == {f"{our_curation.NAME}-row-{at}" for at in range(ROWS)}


def test_the_other_side_compares_what_ours_compares() -> None:
    """Two rows are the same to datatrove where they are to us."""
    ours: dict[str, set[bytes]] = {}
    others: dict[bytes, set[str]] = {}
    for row, _ in sampled():
        content = datatrove_side.content(document(row))
        ours.setdefault(key_of(row), set()).add(content)
        others.setdefault(content, set()).add(key_of(row))
    assert {len(each) for each in ours.values()} == {len(each) for each in others.values()} == {1}


def test_the_other_side_filters_what_ours_filters() -> None:
    assert [datatrove_side.passes(document(row)) for row, _ in sampled()] == [
        sound(row) for row, _ in sampled()
    ]
    limits = FilterConfig()
    assert (limits.max_question, limits.max_answer, limits.max_trace, limits.max_repetition) == (
        datatrove_side.MAX_QUESTION,
        datatrove_side.MAX_ANSWER,
        datatrove_side.MAX_TRACE,
        datatrove_side.MAX_REPETITION,
    )


@pytest.mark.parametrize(("tasks", "rows"), [(1, 7), (2, 10_000), (2, 7), (3, 100_001)])
def test_ingest_takes_as_many_processes_as_the_other_side(
    tasks: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ingest._run` takes 1 + rows // ROWS_PER_PROCESS."""
    monkeypatch.setattr(ingest, "ROWS_PER_PROCESS", 200)
    our_curation.set_processes(tasks, rows)
    assert 1 + rows // ingest.ROWS_PER_PROCESS == tasks


@given(
    st.lists(
        st.sampled_from(["so", "12", "??", "\u3042\u3044", "a" * 40, "x y z", "\n"]), max_size=300
    )
)
def test_the_other_side_counts_repetition_as_ours(words: list[str]) -> None:
    text = " ".join(words)
    assert datatrove_side.repetition(text) == filters.repetition(text)


def test_the_first_file_has_the_highest_priority() -> None:
    """datatrove keeps the highest; within one file it keeps the first."""
    row = sampled()[0][0]
    found = [datatrove_side.priority(document(row, f"rows-{at:05d}.parquet")) for at in (0, 1, 499)]
    assert found == [65535, 65534, 65036]


def test_datatroves_side_imports_nothing_of_ours() -> None:
    """Its interpreter has datatrove and no bimode; here it is the other way round."""
    code = (
        "import sys, benchmarks.peers.datatrove_side; print({m.split('.')[0] for m in sys.modules}"
        " & {'bimode', 'data_curation', 'psutil', 'datatrove', 'pyarrow'} or '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_a_missing_datatrove_is_one_line() -> None:
    """It is noticed before a row is drawn."""
    words = [sys.executable, "benchmarks/curation.py", "--datatrove-python", "/nowhere/python"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == "error: --datatrove-python = /nowhere/python: No such file or directory; name an"
        " interpreter\n"
    )


def test_the_report_compares_medians() -> None:
    """Median of 4, 5 and 20 s is 5 s: 2 rows/s against 1; CPU 8 against 4 s of 10 rows."""
    ours = [Answer(seconds=s, parts={"cpu": 8.0}) for s in (20.0, 4.0, 5.0)]
    peer = [Answer(seconds=s, parts={"cpu": c}) for s, c in ((10.0, 4.0), (2.0, 1.0), (40.0, 9.0))]
    found = curation.report(10, (ours, peer), [curation.Memory(10, 300, 200, 5.0)])
    assert (found["ours"], found["peer"], found["ratio"], found["cpu_ratio"]) == (
        2.0,
        1.0,
        2.0,
        0.5,
    )
    assert found["runs"] == {"ours": [0.5, 2.5, 2.0], "peer": [1.0, 5.0, 0.2]}
    assert found["cpu_us_a_row"] == {"ours": 800_000, "peer": 400_000}
    assert found["memory_mib"] == [{"rows": 10, "driver": 300, "worker": 200, "seconds": 5.0}]
    assert curation.report(0, None, [])["ratio"] is None


def test_other_rows_than_those_that_stay_end_the_benchmark(tmp_path: Path) -> None:
    """One too many, one missing, one twice."""
    (tmp_path / "data").mkdir()
    for at, ids in enumerate((["bench-a"], ["bench-b", "bench-c"])):
        pq.write_table(pa.table({"id": ids}), tmp_path / "data" / f"{at}.parquet")
    assert curation.kept(tmp_path, "bench-") == {"a", "b", "c"}
    with pytest.raises(
        SideError, match="ours keeps 1 rows that have to go and lacks 2: nothing is reported"
    ):
        curation.check_kept({"a", "b", "c"}, {"a", "b", "d", "e"}, "ours")
    pq.write_table(pa.table({"id": ["bench-a"]}), tmp_path / "data" / "2.parquet")
    with pytest.raises(SideError, match="1 rows are there twice"):
        curation.kept(tmp_path, "bench-")


def test_a_high_water_mark_stays_after_the_memory_is_gone() -> None:
    """50 MB that were touched and freed are still in it; a process that has ended has none."""
    code = "x = bytearray(50 << 20); del x; print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        assert 50 < high_water(process.pid) < 150
        assert os.path.basename(sys.executable) in name_of(process.pid)
        process.stdin.write(b"\n")
    assert high_water(process.pid) == 0 and name_of(process.pid) == ""
