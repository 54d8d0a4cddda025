"""Readers: files of five kinds -> records, one after another, in memory that does not grow with the
file.

Whatever a file does, a reader answers: a record that is broken is refused by itself, a file that
breaks off keeps what was read before. Sizes are bounded on the way, so that a small archive cannot
fill the memory.
"""

from __future__ import annotations

import io

from bimode.errors import StorageError
from bimode.storage.limited import ChildEndedError, ChildStuckError, allow_for, excess, stream
from data_curation.sources.files import SourceFile, is_remote, open_file, public, reader_of
from data_curation.sources.readers.arrow import read_hf, read_parquet, split_parquet
from data_curation.sources.readers.lines import read_images, read_jsonl
from data_curation.sources.readers.parts import (
    BROKEN,
    FilePart,
    Read,
    Reader,
    Record,
    reference,
    refuse,
)
from data_curation.sources.readers.tar import read_webdataset
from data_curation.sources.refusal import Refusal

__all__ = ["FilePart", "Read", "Record", "columns_of", "read_records", "reference", "split_file"]

FEW_ROWS = 50_000  # that a file may have whatever its size: equal rows compress to nothing
READERS: dict[str, Reader] = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "hf": read_hf,
    "webdataset": read_webdataset,
    "images": read_images,
}


def split_file(file: SourceFile, reader: str) -> list[FilePart]:
    """The parts of `file` that can be read side by side; `reader` may be "auto" where the file's
    name tells. Never fails.
    """
    reader = reader_of(file.name) if reader == "auto" else reader
    try:
        return (
            list(stream(split_parquet, file))
            if reader == "parquet"
            else [FilePart(file, reader, 0, None)]
        )
    except ChildEndedError:
        return [FilePart(file, reader, 0, None)]


def columns_of(part: FilePart) -> list[str]:
    """What the first record of `part` has; nothing where it is none."""
    _, record = next(iter(read_records(part)), (0, None))
    return [str(name) for name in record] if isinstance(record, dict) else []


def read_records(part: FilePart) -> Read:
    """(row number in the file, record) of every row of `part`, in order; a Refusal in the place of
    what cannot be read.

    Where a file breaks off, the last one is a Refusal with the number of the row that should have
    followed. The part is read in a child process, whose memory is bounded and whose end is such a
    Refusal too.
    """
    row = -1
    try:
        for row, record in stream(read_bounded, part):
            yield row, record
    except ChildEndedError as error:
        if isinstance(error, ChildStuckError) and is_remote(part.file.uri):
            raise StorageError(f"{public(part.file.uri)} does not answer") from None
        yield refuse(part.file, row + 1, "unreadable_file", error)


def read_bounded(part: FilePart) -> Read:
    """Read `part` in a child: what its bytes explain may be read, but not what they only claim."""
    size = _size(part.file)
    if part.reader in (
        "parquet",
        "hf",
    ):  # whose writers may make one page, or one batch, of all rows
        allow_for(size)
    for row, record in read_part(part):
        if row > max(FEW_ROWS, size):
            yield refuse(
                part.file, row, "unreadable_file", f"more rows than its {size} bytes can hold"
            )
            return
        problem = "" if isinstance(record, Refusal) else excess(record)
        yield refuse(part.file, row, "bad_record", problem) if problem else (row, record)


def read_part(part: FilePart) -> Read:
    """Read `part` in this process, as `read_records` does in another."""
    row = -1
    try:
        for row, record in READERS[part.reader](part):
            yield row, record
    except BROKEN as error:
        yield refuse(part.file, row + 1, "unreadable_file", error)


def _size(file: SourceFile) -> int:
    try:
        with open_file(file) as source:
            return source.seek(0, io.SEEK_END)
    except BROKEN:
        return 0  # it will be refused
