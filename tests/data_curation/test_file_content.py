"""What a file is, its content says and not its name; what has two meanings is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from data_curation.sources.files import list_files
from data_curation.sources.readers import Record, read_records, split_file
from data_curation.sources.refusal import Refusal


def read(path: Path) -> list[tuple[int, Record | Refusal]]:
    parts = [part for file in list_files(str(path), "auto") for part in split_file(file, "auto")]
    return [each for part in parts for each in read_records(part)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["x.json", "X.JSON", "x.json.GZ", "x.jsonl", "x.ndjson"])
def test_the_first_byte_says_whether_a_file_is_a_list(tmp_path: Path, name: str) -> None:
    """A list under another name than `.json` was refused line by line."""
    content = json.dumps([{"q": "a"}, 7, {"q": "b"}], indent=1).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("GZ") else content)
    [first, number, last] = read(path)
    assert (first, last) == ((0, {"q": "a"}), (2, {"q": "b"}))
    assert isinstance(number[1], Refusal) and number[1].detail == "not a JSON object"
    lines_of_objects = b'{"q": "a"}\n{"q": "b"}\n'
    path.write_bytes(gzip.compress(lines_of_objects) if name.endswith("GZ") else lines_of_objects)
    assert read(path) == [(0, {"q": "a"}), (1, {"q": "b"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["x.jsonl", "metadata.csv"])
def test_another_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    """It was `'utf-8' renderer can't decode byte 0xff` of every line; a byte-order mark of UTF-8 is
    none.
    """
    text = '{"q": "é"}\n' if name == "x.jsonl" else "file_name,q\na.png,é\n"
    found = read(write(tmp_path / name, text.encode(encoding)))
    if encoding == "utf-8-sig":
        assert isinstance(found[0][1], dict) and found[0][1]["q"] == "é"
        return
    [(row, refusal)] = found
    assert isinstance(refusal, Refusal) and (row, refusal.reason) == (0, "unreadable_file")
    assert refusal.detail == f"the file is {encoding[:6].upper()}; save it as UTF-8"


def test_two_keys_of_one_name_cost_their_row_and_two_columns_their_file(tmp_path: Path) -> None:
    """The last was taken without a word: whose answer it is, nobody can say."""
    twice = b'{"q": "a", "q": "b"}'
    nested = b'{"q": {"n": 1, "m": 2, "n": 1}}'
    sound = b'{"q": {"n": 1}, "m": {"n": 1}}'
    by_line = read(write(tmp_path / "a.jsonl", b"\n".join((twice, nested, sound))))
    by_item = read(write(tmp_path / "a.json", b"[" + b",".join((twice, nested, sound)) + b"]"))
    for found in (by_line, by_item):
        details = [each.detail if isinstance(each, Refusal) else each for _, each in found]
        assert details == ["two keys 'q'", "two keys 'n'", {"q": {"n": 1}, "m": {"n": 1}}]
    columns = pa.table([["a"], ["b"], ["c"]], names=["q", "answer", "answer"])
    pq.write_table(columns, tmp_path / "a.parquet")
    with ipc.new_stream(tmp_path / "a.arrow", columns.schema) as writer:
        writer.write_table(columns)
    write(tmp_path / "metadata.csv", b"file_name,answer,answer\na.png,b,c\n")
    for name in ("a.parquet", "a.arrow", "metadata.csv"):
        [(row, refusal)] = read(tmp_path / name)
        assert isinstance(refusal, Refusal) and row == 0, name
        assert (refusal.reason, refusal.detail) == ("unreadable_file", "two columns 'answer'")
