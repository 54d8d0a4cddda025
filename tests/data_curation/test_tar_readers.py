"""Archives and image folders as records, and damage to any file."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from data_curation.sources.files import list_files
from data_curation.sources.readers import read_part, split_file, tar
from data_curation.sources.refusal import Refusal
from tests.data_curation.test_readers import ROWS, png, read, tar_bytes, write


def test_members_of_one_key_are_one_record(tmp_path: Path) -> None:
    entries = [
        ("./d/0.jpg", b"J0"),
        ("./d/0.json", b'{"question": "q0", "n": [1]}'),
        ("./d/0.cls", b"3\n"),
        ("./d/.hidden.txt", b"-"),
        ("./d/1.left.png", b"L"),
        ("./d/1.right.PNG", b"R"),
        ("./d/1.bin", b"\0"),
        ("e/1.txt", "é".encode()),
    ]
    path = write(tmp_path / "a.tar", tar_bytes(entries))
    (_, first), (_, second), (row, third) = read(path)
    image = {"bytes": b"J0", "path": "./d/0.jpg"}
    assert first == {
        "__key__": "./d/0",
        "jpg": b"J0",
        "question": "q0",
        "n": [1],
        "cls": "3\n",
        "images": [image],
    }
    assert (
        isinstance(second, dict)
        and [each["bytes"] for each in second["images"]] == [b"L", b"R"]
        and second["bin"] == b"\0"
    )
    assert (row, third) == (2, {"__key__": "e/1", "txt": "é"})
    write(tmp_path / "a.tar", b"")
    assert read(write(tmp_path / "b.tar.gz", gzip.compress(tar_bytes(entries))))[0] == (0, first)


def test_a_broken_record_of_a_tar_is_refused_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "MAX_RECORD", 5000)
    entries = [
        ("0.json", b"{"),
        ("1.json", b"[]"),
        ("2.txt", b"\xff"),
        ("3.jpg", b"a"),
        ("3.jpg", b"b"),
        ("4.jpg", b"x" * 4000),
        ("4.png", b"x" * 2000),
        ("5.json", b"[" * 5000),
        ("6.txt", b"good"),
    ]
    found = read(write(tmp_path / "a.tar", tar_bytes(entries)))
    assert [getattr(record, "reason", "") for _, record in found] == ["bad_record"] * 6 + [""]
    assert [row for row, _ in found] == list(range(7))


def test_archives_one_behind_another_are_read_to_the_end(tmp_path: Path) -> None:
    both = tar_bytes([("0.txt", b"a")]) + tar_bytes([("1.txt", b"b")])  # cat 0.tar 1.tar
    assert [
        record["txt"]
        for _, record in read(write(tmp_path / "a.tar", both))
        if isinstance(record, dict)
    ] == ["a", "b"]


def test_a_tar_that_breaks_off_keeps_the_records_before(tmp_path: Path) -> None:
    whole = tar_bytes([(f"{i}.txt", bytes(700)) for i in range(10)])  # a header and two blocks each
    in_header, in_data = whole[: 5 * 1536 + 100], whole[: 5 * 1536 + 900]
    no_header = whole[: 5 * 1536] + b"\1" * 512 + whole[6 * 1536 :]
    for content, sure in (
        (in_header, 4),
        (in_data, 5),
        (no_header, 4),
    ):  # the last record is whole when the next one starts
        *kept, (row, last) = read(write(tmp_path / "a.tar", content))
        assert (
            isinstance(last, Refusal)
            and last.reason == "unreadable_file"
            and row == len(kept) == sure
        )
    packed = gzip.compress(
        tar_bytes([(f"{i}.txt", random.Random(i).randbytes(700)) for i in range(100)])
    )
    *kept, (_, last) = read(write(tmp_path / "a.tar", packed[: len(packed) // 2]))
    assert isinstance(last, Refusal) and 40 <= len(kept) < 50


def lying_header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("1.jpg")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"0", b"7", b"S", b"L", b"x", b"g"])
@pytest.mark.parametrize("size", [-512, 1 << 33, 1 << 62])
def test_a_header_that_lies_about_its_size_ends_the_file_at_once(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    path = write(
        tmp_path / "a.tar",
        tar_bytes([("0.txt", b"hi")])[:1024] + lying_header(kind, size) + bytes(4096),
    )
    tracemalloc.start()
    _, last = read(path)[-1]
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()
    assert isinstance(last, Refusal) and last.reason == "unreadable_file"


def test_a_size_in_an_extended_header_is_not_believed_either(tmp_path: Path) -> None:
    for size in ("-5000", str(1 << 60)):
        path = write(tmp_path / "a.tar", tar_bytes([("0.txt", b"hi")], pax_headers={"size": size}))
        assert [getattr(record, "reason", "") for _, record in read(path)] == ["unreadable_file"]


def test_image_folders_give_their_metadata_with_the_image(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "0.png", png())
    write(
        tmp_path / "metadata.csv",
        b'\xef\xbb\xbffile_name,text\n0.png,"what, \n now?"\n1.png,b,too,many\n2.png\n',
    )
    write(tmp_path / "sub/metadata.jsonl", b'{"file_names": ["1.png", "2.png"]}\n')
    (_, quoted), (_, long), (_, short), (_, pair) = read(tmp_path)
    assert quoted == {"file_name": "0.png", "text": "what, \n now?", "image": "0.png"}
    assert (
        isinstance(long, Refusal) and long.ref == "metadata.csv#1" and long.reason == "bad_record"
    )
    assert short == {"file_name": "2.png", "text": None, "image": "2.png"}
    assert pair == {"file_names": ["1.png", "2.png"], "images": ["1.png", "2.png"]}


def test_a_csv_that_cannot_be_read_keeps_the_rows_before(tmp_path: Path) -> None:
    for broken, reasons in (
        (b"1.png,caf\xe9\n2.png,b\n", ["", "bad_record", ""]),
        (b'"' + b"x" * 200_000 + b'"\n2.png,b\n', ["", "unreadable_file"]),
    ):
        found = read(write(tmp_path / "metadata.csv", b"file_name,text\n0.png,a\n" + broken))
        assert [getattr(record, "reason", "") for _, record in found] == reasons


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl", "a.arrow", "a.tar", "metadata.csv"):
        (file,) = list_files(str(write(tmp_path / name, b"x")), "auto")
        (tmp_path / name).unlink()
        ((row, refusal),) = [each for part in split_file(file, "auto") for each in read_part(part)]
        assert isinstance(refusal, Refusal) and (row, refusal.reason) == (0, "unreadable_file")


def damage(content: bytes, noise: random.Random) -> bytes:
    """`content` cut off, or with a few bytes replaced, left out or put in."""
    if noise.random() < 0.15:
        return content[: noise.randrange(len(content))]
    data = bytearray(content)
    for _ in range(noise.choice([1, 2, 5, 20])):
        at = noise.randrange(len(data))
        new = noise.choice([b"", b"\0", b"\xff", b"\x80", noise.randbytes(1), noise.randbytes(8)])
        data[at : at + noise.choice([1, 1, 8])] = new
    return bytes(data)


def whole_files() -> dict[str, bytes]:
    table = pa.Table.from_pylist(ROWS[:30])
    parquet, stream = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=10)
    with ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    objects = [json.dumps({"q": row["q"]}) for row in ROWS[:30]]
    archive = tar_bytes([(f"{i}.{end}", b'{"a": 1}') for i in range(10) for end in ("json", "jpg")])
    return {
        "a.parquet": parquet.getvalue(),
        "a.arrow": stream.getvalue(),
        "a.jsonl": "\n".join(objects).encode(),
        "a.json": f"[{','.join(objects)}]".encode(),
        "a.jsonl.gz": gzip.compress("\n".join(objects).encode()),
        "a.tar": archive,
        "a.tgz": gzip.compress(archive),
        "metadata.csv": b"file_name,q\n" + b"0.png,a\n" * 30,
    }


@pytest.mark.parametrize("name", whole_files())
def test_no_damage_to_a_file_is_more_than_refusals(tmp_path: Path, name: str) -> None:
    whole, noise = whole_files()[name], random.Random(name)
    write(tmp_path / name, whole)
    sound = len(read(tmp_path))
    refused = 0
    for _ in range(40):
        write(tmp_path / name, damage(whole, noise))
        found = read(tmp_path)
        assert (
            all(isinstance(record, dict | Refusal) for _, record in found)
            and len(found) < 10 * sound + 10
        )
        for row, record in found:
            if isinstance(record, Refusal):
                refused += 1
                assert record.ref == f"{name}#{row}" and record.reason in (
                    "unreadable_file",
                    "bad_record",
                )
                assert record.detail.encode() and "\n" not in record.detail
    assert refused > 5
