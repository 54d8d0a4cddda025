"""Readers: every row of every kind of file with its number, and an answer for every way in which a
file can be broken.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import ipc

from data_curation.sources.files import list_files
from data_curation.sources.readers import FilePart, Record, lines, read_part, split_file
from data_curation.sources.refusal import Refusal

ROWS = [
    {"q": f"question {i}", "n": i, "image": {"bytes": bytes([i]) * 50, "path": f"{i}.png"}}
    for i in range(100)
]


def parts_of(path: Path, reader: str = "auto") -> list[FilePart]:
    return [part for file in list_files(str(path), reader) for part in split_file(file, reader)]


def read(path: Path, reader: str = "auto") -> list[tuple[int, Record | Refusal]]:
    return [each for part in parts_of(path, reader) for each in read_part(part)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_bytes(entries: Iterable[tuple[str, bytes]], **header: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_parquet_parts_hold_whole_row_groups_and_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(5500)}), path, row_group_size=900)  # 900 x 6, then 100
    parts = parts_of(path)
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 7)]
    assert (
        [row for row, _ in read(path)]
        == list(range(5500))
        == [record["n"] for _, record in read(path)]
    )  # type: ignore[index]
    assert [row for row, _ in read_part(parts[1])] == list(range(2700, 5400))


def test_parquet_without_rows_has_no_records(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    assert read(tmp_path) == []


def test_truncated_parquet_is_one_refusal(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-50])
    ((row, refusal),) = read(path)
    assert isinstance(refusal, Refusal) and (row, refusal.ref, refusal.reason) == (
        0,
        "a.parquet#0",
        "unreadable_file",
    )


def test_a_broken_row_group_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=25, write_page_checksum=True)
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at + 40 : at + 60] = b"\xff" * 20
    path.write_bytes(bytes(data))
    refusals = [(row, record.reason) for row, record in read(path) if isinstance(record, Refusal)]
    assert refusals == [(25, "unreadable_file")]
    assert [row for row, record in read(path) if isinstance(record, dict)] == [
        *range(25),
        *range(50, 100),
    ]


def test_parquet_that_has_shrunk_since_it_was_listed_is_one_refusal(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=50)
    [part] = parts_of(tmp_path)
    pq.write_table(pa.Table.from_pylist(ROWS[:9]), tmp_path / "a.parquet")
    [(row, refusal)] = read_part(part)
    assert (
        row == 0
        and isinstance(refusal, Refusal)
        and refusal.detail.endswith("it has changed since")
    )


def test_numbers_of_32_bits_are_read_by_their_digits(tmp_path: Path) -> None:
    """Python's 0.10000000149011612 would be an answer that no 0.1 is."""
    narrow, few = pa.float32(), pa.array([0.1, None, 2.5], pa.float32())
    nested = pa.array(
        [{"x": [0.2, None], "id": 7}, None, {"x": None, "id": 8}],
        pa.struct([("x", pa.list_(narrow)), ("id", "int64")]),
    )
    pq.write_table(
        pa.table({"a": few, "of": nested, "wide": [0.1, 0.2, 0.3]}), tmp_path / "a.parquet"
    )
    assert [record for _, record in read(tmp_path)] == [
        {"a": 0.1, "of": {"x": [0.2, None], "id": 7}, "wide": 0.1},
        {"a": None, "of": None, "wide": 0.2},
        {"a": 2.5, "of": {"x": None, "id": 8}, "wide": 0.3},
    ]


def test_a_text_that_is_no_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff\xfe", b"fine"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    pq.write_table(pa.table({"q": broken}), tmp_path / "a.parquet")
    first, second, third = read(tmp_path)
    assert first == (0, {"q": "good"}) and third == (2, {"q": "fine"})
    assert isinstance(second[1], Refusal) and second[1].reason == "bad_record"


def test_saved_datasets_give_images_as_the_files_they_were(tmp_path: Path) -> None:
    features = datasets.Features({"question": datasets.Value("string"), "image": datasets.Image()})
    rows = {
        "question": ["a", "b", "c"],
        "image": [{"bytes": png(), "path": f"{i}.png"} for i in range(3)],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([2])}).save_to_disk(tmp_path / "set")
    found = read(tmp_path / "set")
    assert [(row, record["question"]) for row, record in found] == [
        (0, "c"),
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]  # type: ignore[index]
    assert all(record["image"]["bytes"] == png() for _, record in found)  # type: ignore[index]
    assert len(read(tmp_path / "set/train")) == 3


@pytest.mark.parametrize("new", [ipc.new_stream, ipc.new_file])
def test_arrow_files_and_streams_that_break_off_keep_what_came_before(
    tmp_path: Path, new: Any
) -> None:
    table = pa.Table.from_pylist(ROWS)
    with new(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    assert read(tmp_path) == list(enumerate(ROWS))
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) // 2])
    *kept, (row, last) = read(tmp_path)
    assert (
        isinstance(last, Refusal)
        and last.reason == "unreadable_file"
        and last.ref == f"a.arrow#{row}"
        and row == len(kept)
    )
    assert kept == list(enumerate(ROWS))[: len(kept)]
    assert len(kept) == (40 if new is ipc.new_stream else 0), (
        "the file format keeps its index at the end"
    )


def test_arrow_with_offsets_that_lie_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    with ipc.new_stream(str(tmp_path / "a.arrow"), pa.schema([("q", pa.string())])) as writer:
        writer.write_table(pa.table({"q": ["first", "second"]}))
    data = (tmp_path / "a.arrow").read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 5, 11))
    assert data.count(offsets) == 1
    lies = b"".join(n.to_bytes(4, "little") for n in (0, 1 << 30, 11))
    (tmp_path / "a.arrow").write_bytes(data.replace(offsets, lies))
    assert [getattr(record, "reason", "") for _, record in read(tmp_path)] == [
        "bad_record",
        "bad_record",
    ]


def test_a_broken_line_is_refused_by_itself(tmp_path: Path) -> None:
    good = '\ufeff{"q": "é"}\n\n{"q": 2}\n{"q": \n[1]\n{"q": "\\ud800"}\n'.encode()
    path = write(
        tmp_path / "a.jsonl",
        good
        + b'{"q": "\xff"}\n'
        + b'{"q":' * 5000
        + b"\n"
        + b'{"n":'
        + b"1" * 5000
        + b"}\n"
        + b'{"q": 9}',
    )
    found = read(path)
    assert [(row, record) for row, record in found if isinstance(record, dict)] == [
        (0, {"q": "é"}),
        (2, {"q": 2}),
        (5, {"q": "\ud800"}),
        (9, {"q": 9}),
    ]
    refused = [(row, record) for row, record in found if isinstance(record, Refusal)]
    assert [(row, refusal.reason) for row, refusal in refused] == [
        (row, "bad_record") for row in (3, 4, 6, 7, 8)
    ]
    assert all(
        refusal.ref == f"a.jsonl#{row}" and "\n" not in refusal.detail for row, refusal in refused
    )
    assert refused[1][1].detail == "list, not a JSON object"


def test_a_line_that_is_too_long_is_skipped_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 18)
    bomb = gzip.compress(b'{"q": "' + b"x" * (16 << 20) + b'"}\n{"q": 1}\n', 1)
    path = write(tmp_path / "a.jsonl.gz", bomb)
    tracemalloc.start()
    (_, first), second = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(first, Refusal) and first.reason == "bad_record" and second == (1, {"q": 1})
    assert peak < 12 << 20


def test_gzip_that_breaks_off_keeps_the_lines_before(tmp_path: Path) -> None:
    noise = random.Random(0)
    content = b"".join(b'{"q": "%d"}\n' % noise.getrandbits(60) for _ in range(2000))
    packed = gzip.compress(content)
    *kept, (row, last) = read(write(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2]))
    assert isinstance(last, Refusal) and last.reason == "unreadable_file" and row == len(kept) > 500
    assert [record for _, record in kept] == [
        json.loads(line) for line in content.splitlines()[: len(kept)]
    ]
    *kept, (_, last) = read(write(tmp_path / "a.jsonl.gz", packed[:-8] + b"\0" * 8))
    assert len(kept) == 2000 and isinstance(last, Refusal) and "CRC" in last.detail


def test_a_json_list_is_read_item_by_item(tmp_path: Path) -> None:
    rows = [
        {"q": "é" * 3000 + str(i), "deep": [{"a": "]},{"}]} for i in range(1500)
    ]  # 9 MB, in blocks of one
    path = write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False, indent=1).encode())
    assert read(path) == list(enumerate(rows))
    tracemalloc.start()
    assert sum(1 for _ in read_part(parts_of(path)[0])) == 1500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
    assert read(write(path, b'{"q": 1}\n{"q": 2}\n')) == [
        (0, {"q": 1}),
        (1, {"q": 2}),
    ], "lines under the name of .json"
    assert read(write(path, b" [ ]")) == []


@pytest.mark.parametrize("between", [b"\n", b" " * (lines.BLOCK + 9)])
def test_a_second_list_in_a_file_is_not_lost_without_a_word(tmp_path: Path, between: bytes) -> None:
    *kept, (_, last) = read(write(tmp_path / "a.json", b'[{"q": 1}]' + between + b'[{"q": 2}]'))
    assert (
        kept == [(0, {"q": 1})]
        and isinstance(last, Refusal)
        and "something follows the list" in last.detail
    )
    assert read(write(tmp_path / "a.json", b'[{"q": 1}]' + between)) == kept


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'[{"q": 1}, {"q": 2}', 2),
        (b'[{"q": 1}, {"q": oops}, {"q": 3}]', 1),
        (b'[{"q": 1}, {"q": "\xff"}]', 0),
        (b"[", 0),
    ],
)
def test_a_broken_json_list_ends_with_a_refusal(tmp_path: Path, content: bytes, rows: int) -> None:
    *kept, (row, last) = read(write(tmp_path / "a.json", content))
    assert isinstance(last, Refusal) and last.reason == "unreadable_file" and row == len(kept)
    assert len(kept) in (
        rows,
        max(rows - 1, 0),
    ), "the last item is only certain when something follows it"
    assert [type(record) for _, record in read(write(tmp_path / "a.json", b"[1, {}]"))] == [
        Refusal,
        dict,
    ]
