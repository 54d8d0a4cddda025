"""The cache of model replies: a folder of Parquet parts, which several engines write side by side.

A part is written whole or not at all. A reply is known by `KEY`; the folder's name is the digest of
all that decides the text of a reply.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bimode.storage.dataset import Row
from data_curation.parquet_sql import parquet
from data_curation.store import MEMORY, READ_ROWS

MOST_PARTS = 64  # beyond which parts are merged
REFUSED = -1  # `number` of a reply that the model was never prompted for
KEY = "id, content, mode, number"
ONCE = f"SELECT DISTINCT ON ({KEY}) * FROM {{parts}} ORDER BY {KEY}, error <> '', text"


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion with its verdict, e.g. ``Reply("digits-7", "9f..", "thinking", 3, 0, "right",
    1.0, 12, "look ...", "")``.
    """

    id: str
    content: str  # digest of all that the reply and its verdict depend on in the row
    mode: str
    number: int  # counts through all rounds
    round: int
    verdict: str  # of the job, on the text
    penalty: float  # repetition penalty that it was drawn under
    num_tokens: int  # after <think>, the forced ones counted
    text: str  # after <think>
    error: str  # why there is no completion or no verdict; such a reply is tried again


REPLY_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("content", pa.string()),
        ("mode", pa.string()),
        ("number", pa.int16()),
        ("round", pa.int16()),
        ("verdict", pa.string()),
        ("penalty", pa.float32()),
        ("num_tokens", pa.int32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)


def parts_of(folder: Path) -> list[Path]:
    """The parts in `folder`, none if there is no such folder."""
    return sorted(folder.glob("part-*.parquet"))


def write_replies(folder: Path, replies: Sequence[Reply]) -> None:
    """Adds `replies` as one part."""
    _write(folder, pa.Table.from_pylist([asdict(reply) for reply in replies], schema=REPLY_SCHEMA))


def read_replies(folder: Path, chosen: pa.Table) -> Iterator[tuple[Row, list[Reply]]]:
    """Yields each row of `chosen` (id, content; ids are unique) with its replies in `folder`,
    ordered by id, mode and number.

    If a reply was written twice (an engine died before it reported), the first by text counts, one
    without an error before all others. DuckDB joins, and spills to disk.
    """
    parts = parts_of(folder)
    if not parts:
        yield from ((row, []) for row in chosen.sort_by("id").to_pylist())
        return
    names = REPLY_SCHEMA.names
    columns = ", ".join(f"r.{name} AS r_{name}" for name in names)
    once = ONCE.format(parts=parquet(parts))
    with duckdb.connect(config={"memory_limit": MEMORY}) as db:
        db.register("chosen", chosen)
        found = db.sql(
            f"SELECT c.*, {columns} FROM chosen c LEFT JOIN ({once}) r USING (id, content)"
            " ORDER BY c.id, r.mode, r.number"
        )
        reader = found.to_arrow_reader(READ_ROWS)
        rows = (row for batch in reader for row in batch.to_pylist())
        for _, group in groupby(rows, key=lambda row: row["id"]):
            of_row = list(group)
            own = {name: of_row[0][name] for name in chosen.column_names}
            replied = [row for row in of_row if row["r_id"] is not None]
            yield own, [Reply(*(row[f"r_{name}"] for name in names)) for row in replied]


def compact(folder: Path) -> None:
    """Merges the parts of `folder` once there are many; each reply stays once, those with an error
    are dropped.

    Never while another process reads the folder: that process would miss a part that it has listed.
    """
    parts = parts_of(folder)
    if len(parts) <= MOST_PARTS:
        return
    once = ONCE.format(parts=parquet(parts))
    with duckdb.connect(config={"memory_limit": MEMORY}) as db:
        merged = db.sql(f"SELECT * FROM ({once}) WHERE error = '' ORDER BY {KEY}")
        _write(folder, merged.to_arrow_table().cast(REPLY_SCHEMA))
    for part in parts:
        part.unlink(missing_ok=True)


def _write(folder: Path, table: pa.Table) -> None:
    """Writes under a hidden name first, so that no part is ever half there."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{uuid.uuid4().hex}.parquet"
    pq.write_table(table, folder / f".{name}", compression="zstd")
    (folder / f".{name}").replace(folder / name)
