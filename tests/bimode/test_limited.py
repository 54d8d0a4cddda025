"""A child reads what may be dangerous: its items arrive once and in order, and its end is an error
and nothing more.
"""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.errors import BimodeError, ConfigError
from bimode.storage import limited
from bimode.storage.dataset import SCHEMA, read_rows
from bimode.storage.limited import ChildEndedError, ChildKilledError, excess, stream
from tests import limited_work as work


def collect(*call: Any) -> tuple[list[Any], BaseException | None]:
    """The items of a stream, and the error that it ended in."""
    items = []
    try:
        for item in stream(*call):
            items.append(item)
    except Exception as error:
        return items, error
    return items, None


def test_items_come_in_order_and_children_are_kept() -> None:
    first = list(stream(work.count, 1000))
    again = list(stream(work.count, 3))
    assert [at for at, _ in first] == list(range(1000)) and [at for at, _ in again] == [0, 1, 2]
    assert {pid for _, pid in [*first, *again]} == {first[0][1]}


def test_items_of_any_size_come_whole() -> None:
    sizes = [0, 1, 70_000, limited.SENT_BYTES + 1, 20 << 20, 3]
    assert [len(item) for item in stream(work.large, sizes)] == sizes


@pytest.mark.parametrize("taken", [0, 1, 64, 65, 200])
def test_a_stream_that_is_left_early_leaves_nothing_to_the_next(taken: int) -> None:
    kept = stream(work.count, 1000)
    assert [at for at, _ in islice(kept, taken)] == list(range(taken))
    kept.close()  # type: ignore[attr-defined]
    assert [at for at, _ in stream(work.count, 2)] == [0, 1]


def test_two_streams_at_once_have_a_child_each() -> None:
    pairs = list(zip(stream(work.count, 300), stream(work.count, 300), strict=True))
    assert [(a[0], b[0]) for a, b in pairs] == [(at, at) for at in range(300)]
    assert pairs[0][0][1] != pairs[0][1][1]


@pytest.mark.parametrize("name", ["storage", "config", "end", "time", "pipe"])
def test_an_error_of_the_work_is_raised_behind_its_items(name: str) -> None:
    items, error = collect(work.count_and_raise, 70, name)
    with pytest.raises(Exception) as expected:
        list(work.count_and_raise(0, name))
    assert items == list(range(70))
    assert type(error) is expected.type and str(error) == str(expected.value)


def test_a_fault_of_ours_is_no_refusal() -> None:
    """As a refusal it would cost rows without a word of why."""
    items, error = collect(work.count_and_raise, 70, "fault")
    assert items == list(range(70)) and type(error) is RuntimeError


@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_child_that_dies_twice_is_an_error_behind_its_items(by: signal.Signals) -> None:
    items, error = collect(work.count_and_die, 64 + 7, by)
    assert isinstance(error, ChildEndedError) and str(error) == f"its reader ended by {by.name}"
    assert items == list(range(64 + 7))


def test_a_child_that_dies_once_costs_no_item(tmp_path: Path) -> None:
    assert collect(work.die_once, 200, tmp_path / "note") == (list(range(200)), None)


def test_a_child_that_somebody_else_kills_says_nothing_of_the_file() -> None:
    _, error = collect(work.count_and_die, 3, signal.SIGKILL)
    assert isinstance(error, ChildKilledError)
    assert isinstance(error, BimodeError) and not isinstance(error, OSError | ValueError)


def test_a_child_that_gets_no_further_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    list(stream(work.count, 1))  # its start is not what is timed
    monkeypatch.setattr(limited, "SECONDS", 0.5)
    items, error = collect(work.count_and_sleep, 64)
    assert items == list(range(64)) and "no further" in str(error)
    monkeypatch.undo()
    assert [at for at, _ in stream(work.count, 2)] == [0, 1]


def test_a_child_may_not_take_the_memory_of_the_machine() -> None:
    assert collect(work.fill, 500 << 20) == ([500 << 20], None)
    items, error = collect(work.fill, 1 << 30)
    assert items == [] and isinstance(error, MemoryError)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"a": [1, {"b": "c"}], "d": b"e", "f": None}, ""),
        ((0, "x" * limited.MAX_BYTES), ""),
        ((0, "x" * limited.MAX_BYTES, "y"), "more than 128 MB"),
        ({"x" * 70_000_000: 0, "y" * 70_000_000: 0}, "more than 128 MB"),
        ([None] * (limited.MAX_VALUES - 1), ""),
        ([None] * limited.MAX_VALUES, "more than 262144 values"),
        ([[None] * 200_000, [None] * 200_000], "more than 262144 values"),
        ([{}] * limited.MAX_VALUES, "more than 262144 values"),
        (dict.fromkeys(range(limited.MAX_VALUES)), "more than 262144 values"),
    ],
)
def test_what_an_item_may_hold_is_counted(item: object, problem: str) -> None:
    assert excess(item) == problem


def write_split(folder: Path, **columns: Any) -> Path:
    file = folder / "eval-0.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd", write_statistics=False)
    return folder


def zeros(size: int) -> pa.Array:
    """One value of `size` zero bytes, whose memory is not touched."""
    ends = pa.py_buffer(np.array([0, size], np.int64))
    return pa.Array.from_buffers(
        pa.large_binary(), 1, [None, ends, pa.py_buffer(np.zeros(size, np.uint8))]
    )


def test_rows_of_a_data_folder_are_read_within_a_budget(tmp_path: Path) -> None:
    """A few kB that stand for a gigabyte are a line that names the file."""
    assert list(read_rows(write_split(tmp_path, id=["a", "b"], n=[1, 2]), "eval", ["id"])) == [
        {"id": "a"},
        {"id": "b"},
    ]
    folder = write_split(tmp_path, id=zeros(450 << 20))
    assert (folder / "eval-0.parquet").stat().st_size < 1 << 20
    with pytest.raises(ConfigError, match=r"eval-0.parquet: cannot be read as Parquet: "):
        list(read_rows(folder, "eval"))


def test_a_data_file_that_is_none_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "eval-0.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(
        ConfigError, match=r"eval-0.parquet: cannot be read as Parquet: Parquet magic"
    ):
        list(read_rows(tmp_path, "eval"))
    many = pa.array([[None] * limited.MAX_VALUES], pa.list_(pa.null()))
    with pytest.raises(ConfigError, match="a row of more than 262144 values"):
        list(read_rows(write_split(tmp_path, id=many), "eval"))
    empty = SCHEMA.empty_table()
    pq.write_table(empty, tmp_path / "eval-0.parquet")
    assert list(read_rows(tmp_path, "eval")) == []


def test_an_interrupted_stream_gives_nothing_to_the_next() -> None:
    """The child was kept in the middle of its work, and its items came out of the next file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(stream(work.endless, "A"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [at for at, _ in stream(work.count, 3)] == [0, 1, 2]
