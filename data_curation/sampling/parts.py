"""A cache of records in Parquet parts: whoever has made some adds a part, whole or not at all,
beside others that do the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_curation.parquet_sql import parquet

MOST_PARTS = 64  # beyond which parts are put together


def parts_of(folder: Path) -> list[Path]:
    """The parts in `folder`, none where there is no such folder."""
    return sorted(folder.glob("part-*.parquet"))


def write_part(folder: Path, records: Sequence[Any], schema: pa.Schema) -> None:
    """Adds dataclasses with the fields of `schema`; under a hidden name first, so that a part is
    never half there.
    """
    write_table(folder, pa.Table.from_pylist([asdict(record) for record in records], schema=schema))


def write_table(folder: Path, table: pa.Table) -> None:
    """Adds a table as a part."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{uuid.uuid4().hex}.parquet"
    pq.write_table(table, folder / f".{name}", compression="zstd")
    (folder / f".{name}").replace(folder / name)


def compact(folder: Path, key: Sequence[str]) -> None:
    """Puts many parts together, one record a `key` (of several the first by text); failed ones
    (`error`) are left out.

    Not while another process reads the folder: it would miss a part that it has listed.
    """
    import duckdb

    parts = parts_of(folder)
    if len(parts) <= MOST_PARTS:
        return
    names = ", ".join(key)
    query = (
        f"SELECT DISTINCT ON ({names}) * FROM {parquet(parts)} WHERE error = '' ORDER BY {names},"
        " text"
    )
    schema = pq.read_schema(parts[0])
    with duckdb.connect() as db:
        write_table(folder, db.sql(query).to_arrow_table().cast(schema))
    for part in parts:
        part.unlink(missing_ok=True)
