"""JSON lines, JSON lists and the metadata files of image folders, a record at a time whatever the
size of the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from bimode.storage.limited import MAX_VALUES
from data_curation.sources.files import BLOCK
from data_curation.sources.readers.parts import (
    FilePart,
    ObjectNames,
    Read,
    Record,
    check_encoding,
    check_names,
    open_plain,
    parse_object,
    refuse,
)
from data_curation.sources.refusal import Refusal

MAX_LINE = (
    32 << 20
)  # bytes; an image of the largest size that validation lets pass fits in, as base64
BLANK = " \t\r\n"
BETWEEN = re.compile(r"[ \t\r\n,]*")  # of two items of a list
NO_UTF8 = re.compile("[\udc80-\udcff]")
IMAGE_COLUMNS = {
    "file_name": "image",
    "file_names": "images",
}  # of metadata, and what they are called as columns


def read_jsonl(part: FilePart) -> Read:
    """An object a line, where a line that is none is refused by itself; or one list of objects.

    The first byte says which, whatever the file is called.
    """
    with open_plain(part.file) as source:
        start = source.peek(64)  # type: ignore[attr-defined]
        check_encoding(start)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            for row, (value, problem) in enumerate(_list_items(source)):
                yield refuse(part.file, row, "bad_record", problem) if problem else (row, value)
            return
        for row, line in enumerate(_lines(source)):
            if line is None:
                yield refuse(
                    part.file, row, "bad_record", f"a line of more than {MAX_LINE >> 20} MB"
                )
            elif not line.isspace():
                yield row, _parsed(part, row, line)


def read_images(part: FilePart) -> Read:
    """The rows of `metadata.jsonl` or `metadata.csv`, with what `file_name` says as `image` too."""
    for row, record in _csv_rows(part) if part.file.name.endswith(".csv") else read_jsonl(part):
        if isinstance(record, dict):
            record |= {
                ours: record[foreign]
                for foreign, ours in IMAGE_COLUMNS.items()
                if foreign in record
            }
        yield row, record


def _parsed(part: FilePart, row: int, line: bytes) -> Record | Refusal:
    try:
        return parse_object(line)
    except json.JSONDecodeError as error:
        return refuse(part.file, row, "bad_record", f"{error.msg} at character {error.pos}")[
            1
        ]  # its line would be the record's
    except (ValueError, RecursionError, MemoryError) as error:
        return refuse(part.file, row, "bad_record", error)[1]


def _lines(source: BinaryIO) -> Iterator[bytes | None]:
    """The lines of `source`; None for one that is too long, which never is in memory as a whole."""
    while line := source.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(BLOCK)
        yield None


def _list_items(source: BinaryIO) -> Iterator[tuple[Any, str]]:
    """The items of a JSON list, each with what makes it no record. Raises ValueError where one is
    broken, behind which nothing says where the next one starts, and where something follows the
    list, such as another one.
    """
    names = ObjectNames()
    reader = io.TextIOWrapper(source, encoding="utf-8-sig")
    decoder = json.JSONDecoder(object_pairs_hook=names)
    text = reader.read(BLOCK)
    at = text.index("[") + 1
    while True:
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip(BLANK) or any(
                more.strip(BLANK) for more in iter(partial(reader.read, BLOCK), "")
            ):
                raise ValueError("something follows the list")
            return
        names.twice = ""
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            value, end, why = None, len(text), str(error)
        else:
            why = "the list does not end"
        if end < len(text):
            yield value, names.twice if isinstance(value, dict) else "not a JSON object"
            at = end
            continue
        if text.count(",", at) > MAX_VALUES:  # it would be decoded again and again, in vain
            raise ValueError(f"an item of more than {MAX_VALUES} values")
        more = (
            reader.read(max(BLOCK, len(text) - at)) if len(text) - at <= MAX_LINE else ""
        )  # the item may be cut off here
        if not more:
            raise ValueError(why)
        text, at = text[at:] + more, 0


def _csv_rows(part: FilePart) -> Read:
    with open_plain(part.file) as source:
        check_encoding(source.peek(4))  # type: ignore[attr-defined]
        rows = csv.DictReader(_text_lines(source))
        check_names(rows.fieldnames or (), "column")
        for row, record in enumerate(rows):
            if None in record:
                yield refuse(part.file, row, "bad_record", "more fields than the header names")
            elif NO_UTF8.search("".join(text or "" for cell in record.items() for text in cell)):
                yield refuse(part.file, row, "bad_record", "text that is no UTF-8")
            else:
                yield row, dict(record)


def _text_lines(source: BinaryIO) -> Iterator[str]:
    for line in _lines(source):
        if line is None:
            raise ValueError(f"a line of more than {MAX_LINE >> 20} MB")
        yield line.decode(
            "utf-8-sig", errors="surrogateescape"
        )  # one bad byte is not to cost all rows behind it
