"""What all readers share: the part of a file that one task reads, what it yields, and what may go
wrong on the way.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from bimode.inputs.text import other_encoding
from data_curation.sources.files import BLOCK, SourceFile, open_file
from data_curation.sources.refusal import Refusal

Record = dict[str, Any]  # one foreign row: column -> what JSON or Arrow holds
Read = Iterator[tuple[int, Record | Refusal]]
Reader = Callable[["FilePart"], Read]

# What the libraries raise of a file that is damaged, or made to do damage.
BROKEN = (
    pa.ArrowException,
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
    tarfile.TarError,
    zlib.error,
    csv.Error,
)
MAX_COLUMNS = 1 << 15  # each is looked at in every row
GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class FilePart:
    """Row groups `start` to `stop` of a Parquet file, e.g. ``FilePart(file, "parquet", 0, 4)``;
    other files whole, 0 to None.
    """

    file: SourceFile
    reader: str
    start: int
    stop: int | None


def reference(file: SourceFile, row: int) -> str:
    """The name of a record in lineage and refusals, e.g. ``train/0.parquet#17``; rows count from
    0.
    """
    return f"{file.name}#{row}"


def refuse(
    file: SourceFile, row: int, reason: str, why: BaseException | str
) -> tuple[int, Refusal]:
    """What a reader yields in the place of a record."""
    text = why if isinstance(why, str) else str(why) or type(why).__name__
    line = " ".join(text.encode(errors="replace").decode().split())
    return row, Refusal(reference(file, row), reason, line[:200])


def open_plain(file: SourceFile) -> BinaryIO:
    """`file` for reading from the start, uncompressed where it is gzip; errors of the content come
    while it is read.
    """
    source = io.BufferedReader(open_file(file), BLOCK)  # type: ignore[type-var]
    packed = source.peek(2)[:2] == GZIP
    return cast(BinaryIO, gzip.GzipFile(fileobj=source) if packed else source)


def parse_object(data: bytes) -> Record:
    """The JSON object in `data`. Raises ValueError for anything else and RecursionError for one
    that is nested too deeply.
    """
    names = ObjectNames()
    value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=names)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__}, not a JSON object")
    if names.twice:
        raise ValueError(names.twice)
    return value


class ObjectNames:
    """Makes the objects of a JSON text, as `object_pairs_hook`; remembers a key that one has twice.

    It does not raise, since a list of records has to be read on behind one of them.
    """

    def __init__(self) -> None:
        self.twice = ""

    def __call__(self, pairs: list[tuple[str, Any]]) -> Record:
        made = dict(pairs)
        if len(made) < len(pairs):
            self.twice = twice([name for name, _ in pairs], "key")
        return made


def check_names(names: Sequence[str], kind: str) -> None:
    """Raises ValueError where two columns have one name, since only one of them could be read, or
    there are too many.
    """
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{len(names)} {kind}s, at most {MAX_COLUMNS}")
    if found := twice(names, kind):
        raise ValueError(found)


def twice(names: Sequence[str], kind: str) -> str:
    """E.g. ``two columns 'answer'``; "" where all names differ."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return f"two {kind}s {name!r}"
        seen.add(name)
    return ""


def check_encoding(start: bytes) -> None:
    """Raises ValueError for a text that begins with `start` and is not UTF-8."""
    if found := other_encoding(start):
        raise ValueError(f"the file is {found}; save it as UTF-8")
