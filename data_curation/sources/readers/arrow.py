"""Parquet, and the Arrow files of `datasets.save_to_disk`.

Both are read without `datasets`: an image column is a struct of bytes and path, so images stay the
encoded files they are. Every batch is validated before its values are touched, because Arrow trusts
the offsets that it finds in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from bimode.storage.limited import parquet_batches
from data_curation.sources.files import BLOCK, SourceFile, is_remote, open_file
from data_curation.sources.readers.parts import BROKEN, FilePart, Read, Record, check_names, refuse
from data_curation.sources.refusal import Refusal

ROWS_PER_PART = 2000
ROWS_PER_BATCH = 64  # a batch of images stays small
ARROW_FILE = b"ARROW1"  # the magic of Arrow's file format; without it the file is a stream


def split_parquet(file: SourceFile) -> list[FilePart]:
    """Row groups in parts of `ROWS_PER_PART` rows or a little more; a file that cannot be read, or
    has none, is one part.
    """
    try:
        with open_file(file) as source:
            sizes = _group_sizes(pq.ParquetFile(source))
    except BROKEN:
        return [FilePart(file, "parquet", 0, None)]
    parts, start, rows = [], 0, 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= ROWS_PER_PART or group == len(sizes) - 1:
            parts.append(FilePart(file, "parquet", start, group + 1))
            start, rows = group + 1, 0
    return parts or [FilePart(file, "parquet", 0, None)]


def read_parquet(part: FilePart) -> Read:
    """Row groups one by one: one that is broken costs its own remaining rows and not those of the
    next.
    """
    with open_file(part.file) as source:
        table = pq.ParquetFile(source, buffer_size=BLOCK, page_checksum_verification=True)
        check_names(table.schema_arrow.names, "column")
        starts = [0, *accumulate(_group_sizes(table))]
        if part.stop is not None and part.stop >= len(starts):
            raise ValueError("another file than was listed: it has changed since")
        for group in range(part.start, len(starts) - 1 if part.stop is None else part.stop):
            row = starts[group]
            try:
                for batch in parquet_batches(table, group):
                    yield from _records(part.file, batch, row)
                    row += batch.num_rows
            except BROKEN as error:
                yield refuse(part.file, row, "unreadable_file", f"row group {group}: {error}")


def read_hf(part: FilePart) -> Read:
    """Record batches one by one; one that is broken ends the file."""
    row = 0
    with _mapped(part.file) as source:
        for batch in _ipc_batches(source):
            batch.validate()  # its lengths fit its buffers
            check_names(batch.schema.names, "column")
            yield from _records(part.file, batch, row)
            row += batch.num_rows


def _mapped(file: SourceFile) -> BinaryIO:
    """`file` for reading; of this machine its pages, so that a batch takes no memory of its own."""
    return open_file(file) if is_remote(file.uri) else cast(BinaryIO, pa.memory_map(file.uri))


def _ipc_batches(source: BinaryIO) -> Iterator[pa.RecordBatch]:
    magic = source.read(len(ARROW_FILE))
    source.seek(0)
    if magic == ARROW_FILE:
        reader = ipc.open_file(source)
        return (reader.get_batch(at) for at in range(reader.num_record_batches))
    return iter(ipc.open_stream(source))


def _group_sizes(table: pq.ParquetFile) -> list[int]:
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _records(file: SourceFile, batch: pa.RecordBatch, row: int) -> Read:
    for start in range(0, batch.num_rows, ROWS_PER_BATCH):
        piece = batch.slice(start, ROWS_PER_BATCH)
        try:
            yield from enumerate(_values(piece), row + start)
        except BROKEN:  # some row of these is: find which
            for at in range(piece.num_rows):
                yield row + start + at, _value(file, piece.slice(at, 1), row + start + at)


def _value(file: SourceFile, one: pa.RecordBatch, row: int) -> Record | Refusal:
    try:
        return _values(one)[0]
    except BROKEN as error:
        return refuse(file, row, "bad_record", error)[1]


def _values(batch: pa.RecordBatch) -> list[Record]:
    batch.validate(full=True)
    names = batch.schema.names
    rows: list[Record] = pa.RecordBatch.from_arrays(
        [_as_written(column) for column in batch.columns], names
    ).to_pylist()
    return rows


def _as_written(column: pa.Array) -> pa.Array:
    """`column` with numbers of 32 bits by their digits: an answer of 0.1 is not to become Python's
    0.10000000149011612.
    """
    kind = _instead_of_float32(column.type, pa.string())
    return (
        column
        if kind == column.type
        else column.cast(kind).cast(_instead_of_float32(column.type, pa.float64()))
    )


def _instead_of_float32(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """`kind` with `other` in the place of 32-bit numbers, in lists and structs too."""
    if pa.types.is_float32(kind):
        return other
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_instead_of_float32(kind.value_type, other)))
    if pa.types.is_struct(kind):
        return pa.struct(
            [field.with_type(_instead_of_float32(field.type, other)) for field in kind]
        )
    return kind
