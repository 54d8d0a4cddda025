"""A small file that stands for gigabytes, millions of rows or minutes costs itself and is named; an
honest large one is read.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from bimode.config.curate import CurateConfig, SourceConfig
from bimode.storage import limited
from data_curation.sources.files import list_files
from data_curation.sources.ingest import ingest
from data_curation.sources.layouts import read_samples
from data_curation.sources.listing import file_shards, list_sources
from data_curation.sources.readers import FEW_ROWS, FilePart, Record, read_records, split_file
from data_curation.sources.readers.parts import MAX_COLUMNS
from data_curation.sources.refusal import Refusal

MB = 1 << 20
Rows = list[tuple[int, Record | Refusal]]


@pytest.fixture(autouse=True)
def own_child() -> Iterator[None]:
    """A child that no test before has made large."""
    while limited.IDLE:
        limited.IDLE.pop()[0].kill()
    yield


def read(path: Path) -> Rows:
    """The records of `path`, read within a gigabyte."""
    parts = [part for file in list_files(str(path), "auto") for part in split_file(file, "auto")]
    rows = [each for part in parts for each in read_records(part)]
    ((child, _),) = limited.IDLE
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 1 << 20, peak  # kB
    return rows


def zeros(size: int, count: int = 1) -> pa.Array:
    """`count` values of `size` zero bytes, whose memory is not touched."""
    ends = pa.py_buffer(np.arange(count + 1, dtype=np.int64) * size)
    data = pa.py_buffer(np.zeros(size * count, np.uint8))
    return pa.Array.from_buffers(pa.large_binary(), count, [None, ends, data])


def write_parquet(path: Path, column: pa.Array, **options: Any) -> Path:
    pq.write_table(pa.table({"q": column}), path, compression="zstd", **options)
    return path


def write_ipc(path: Path, column: pa.Array, new: Any = ipc.new_file) -> Path:
    table = pa.table({"q": column})
    with new(str(path), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return path


def repeated(size: int, rows: int) -> pa.Array:
    """One value of `size` bytes in a dictionary, and `rows` rows that refer to it."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([b"a" * size]))


def test_a_dictionary_value_that_many_rows_refer_to(tmp_path: Path) -> None:
    """1,400 bytes, of which 64 rows at once took 5.1 GB."""
    path = write_parquet(tmp_path / "a.parquet", repeated(10 * MB, 64).cast(pa.binary()))
    assert path.stat().st_size < 2000
    rows = read(path)
    assert [len(record["q"]) for _, record in rows] == [10 * MB] * 64  # type: ignore[index]


def refusal_of(rows: Rows) -> str:
    """The reason of the only row, and what is said of it."""
    ((_, refusal),) = rows
    assert isinstance(refusal, Refusal) and len(refusal.detail) <= 200
    return f"{refusal.ref} {refusal.reason} {refusal.detail}"


@pytest.mark.parametrize("kind", ["a.parquet", "a.arrow", "stream.arrow"])
def test_a_value_that_does_not_fit_is_refused_with_its_file(tmp_path: Path, kind: str) -> None:
    """A few kB of zstd, which are one value of hundreds of MB."""
    column = zeros(500 * MB if kind == "a.parquet" else 900 * MB)
    if kind == "a.parquet":
        path = write_parquet(tmp_path / kind, column, use_dictionary=False, write_statistics=False)
    else:
        path = write_ipc(
            tmp_path / kind, column, ipc.new_stream if "stream" in kind else ipc.new_file
        )
    assert path.stat().st_size < MB
    assert refusal_of(read(path)).startswith(f"{kind}#0 unreadable_file ")


def test_nothing_many_times_over_is_refused(tmp_path: Path) -> None:
    """Levels and nulls take no bytes in a file, and eight each as Python's."""
    column = pa.array([pa.nulls(3_000_000, pa.int8())], pa.list_(pa.int8()))
    path = write_parquet(tmp_path / "list.parquet", column)
    assert path.stat().st_size < 20_000
    assert refusal_of(read(path)) == "list.parquet#0 bad_record more than 262144 values"


@pytest.mark.parametrize("kind", ["a.parquet", "a.arrow", "a.jsonl.gz"])
def test_rows_that_no_byte_stands_for_are_not_counted_one_by_one(tmp_path: Path, kind: str) -> None:
    """They would be rejects, a hundred million of a kilobyte."""
    path = tmp_path / kind
    if kind == "a.parquet":
        write_parquet(path, pa.nulls(FEW_ROWS * 10, pa.int8()))
    elif kind == "a.arrow":
        write_ipc(path, pa.nulls(FEW_ROWS * 10))
    else:
        path.write_bytes(gzip.compress(b"{}\n" * (FEW_ROWS * 5)))
    size = path.stat().st_size
    last = read(path)[-1][1]
    assert size < FEW_ROWS // 10 and isinstance(last, Refusal)
    assert last.detail == f"more rows than its {size} bytes can hold"


def test_rows_that_are_there_are_read_however_many(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"n":{at}}}\n' for at in range(FEW_ROWS + 9)))
    rows = read(path)
    assert len(rows) == FEW_ROWS + 9 and rows[-1] == (FEW_ROWS + 8, {"n": FEW_ROWS + 8})


@pytest.mark.parametrize("item", ["{},", '{"a":0},'])
def test_a_line_of_millions_of_values_costs_itself(tmp_path: Path, item: str) -> None:
    """31 MB of `{}` took a gigabyte."""
    path = tmp_path / "a.jsonl"
    line = f'{{"a":[{item * (16 * MB // len(item))}1]}}'
    path.write_text(f'{line}\n{{"b":1}}\n')
    (_, refusal), row = read(path)
    assert isinstance(refusal, Refusal) and refusal.reason == "bad_record" and row == (1, {"b": 1})


def test_an_item_of_millions_of_values_ends_its_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{{"b":1}},{{"a":[{"{}," * (7 * MB)}1]}}]')
    first, (_, refusal) = read(path)
    assert first == (0, {"b": 1}) and isinstance(refusal, Refusal)
    assert refusal.detail == "an item of more than 262144 values"


def test_blanks_are_passed_at_once(tmp_path: Path) -> None:
    """204 kB of `.json.gz` with 200 MB of blanks took 50 s, one character a turn; 20 MB here."""
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" ," * (10 * MB) + b'{"a": 1}]'))
    list(limited.stream(split_file, list_files(str(path), "auto")[0], "auto"))  # starts the child
    assert read(path) == [(0, {"a": 1})]
    child, _ = limited.IDLE[-1]
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    seconds = int(fields[11]) / os.sysconf("SC_CLK_TCK")
    assert seconds < 3


def test_a_table_of_a_hundred_thousand_columns_is_refused_by_its_head(tmp_path: Path) -> None:
    """Comparing each name with all others took minutes, and each row of two bytes has all of
    them.
    """
    path = tmp_path / "metadata.csv"
    path.write_text(",".join(map(str, range(200_000))) + "\n" + "a\n" * 1000)
    assert (
        refusal_of(read(path))
        == f"metadata.csv#0 unreadable_file 200000 columns, at most {MAX_COLUMNS}"
    )
    path.unlink()
    keys = ",".join(f'"{at}":0' for at in range(100_000))
    (tmp_path / "a.jsonl").write_text(f'{{{keys},"7":1}}\n')
    assert refusal_of(read(tmp_path)) == "a.jsonl#0 bad_record two keys '7'"


@pytest.mark.parametrize("kind", ["a.parquet", "a.arrow"])
def test_an_honest_file_of_large_rows_is_read(tmp_path: Path, kind: str) -> None:
    """Rows of 10 MB that do not compress, in one row group or batch and, as writers do it, one
    page.
    """
    pictures = [os.urandom(10 * MB) for _ in range(30 if kind == "a.parquet" else 10)]
    if kind == "a.parquet":
        plain = {"use_dictionary": False, "write_statistics": False, "compression": "none"}
        pq.write_table(pa.table({"q": pictures}), tmp_path / kind, **plain)  # type: ignore[arg-type]
    else:
        write_ipc(tmp_path / kind, pa.array(pictures))
    parts = split_file(list_files(str(tmp_path), "auto")[0], "auto")
    count = 0
    for part in parts:
        for row, record in read_records(part):
            assert isinstance(record, dict) and record["q"] == pictures[row]
            count += 1
    assert count == len(pictures)


def test_a_hostile_file_beside_an_honest_one_takes_no_run_with_it(
    ray_local: Any, tmp_path: Path
) -> None:
    """In a task of Ray: one that is killed is tried again, and again, and ends the job."""
    folder = tmp_path / "source"
    folder.mkdir()
    texts = [f"What is {at} + 1?" for at in range(30)]
    honest = pa.table({"question": texts, "answer": [str(at + 1) for at in range(30)]})
    pq.write_table(honest, folder / "honest.parquet")
    write_parquet(
        folder / "hostile.parquet", zeros(500 * MB), use_dictionary=False, write_statistics=False
    )
    source = SourceConfig(path=str(folder), columns={"question": "question", "answer": "answer"})
    config = CurateConfig(sources=(source,))
    listed = list_sources(config.sources, tmp_path / "sources.json")
    files = ingest(
        file_shards(config.sources, listed), config, tmp_path / "made", lambda done: None
    )
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    reasons = Counter(row["reason"] for row in rows)
    assert reasons == {"": 30, "unreadable_file": 1}
    assert [row["source_refs"] for row in rows if row["reason"]] == [["hostile.parquet#0"]]


def test_a_reader_that_dies_costs_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a task of Ray it would be tried again, and take the run with it."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join(json.dumps({"question": f"q{at}", "answer": "1"}) for at in range(200))
    )
    (file,) = list_files(str(path), "auto")
    part = FilePart(file, "jsonl", 0, None)
    take = limited._answer

    def take_and_kill(child: limited.Child) -> Any:
        taken = take(child)
        child[0].send_signal(11)
        return taken

    monkeypatch.setattr(limited, "_answer", take_and_kill)
    source = SourceConfig(path=str(path), columns={"question": "question", "answer": "answer"})
    *samples, refusal = read_samples(part, source)
    assert len(samples) == 65  # 64 of the first child, and what the second sends alone
    assert isinstance(refusal, Refusal) and (refusal.ref, refusal.reason) == (
        "a.jsonl#65",
        "unreadable_file",
    )
    assert refusal.detail == "its reader ended by SIGSEGV"
