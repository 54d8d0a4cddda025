"""Files in DuckDB's SQL: exactly the files that are named, with exactly their own columns, whatever
their folders are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb


def parquet(paths: Iterable[Path], *options: str) -> str:
    """`paths` as a table, e.g. ``parquet(parts, "filename = true")``.

    A folder `mode=x` is not taken for a column, which would replace the files' own, and `a?b` not
    for a pattern.
    """
    listed = ", ".join(text(re.sub(r"([*?\[])", r"[\1]", str(path))) for path in paths)
    return f"read_parquet({', '.join([f'[{listed}]', 'hive_partitioning = false', *options])})"


def text(value: object) -> str:
    """`value` as a literal."""
    return "'" + str(value).replace("'", "''") + "'"


def on_disk(folder: Path, limits: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """A database in `folder`, for use by this process alone. It has no write-ahead log: DuckDB
    would take a `?` in the log's path for the end of it.
    """
    db = duckdb.connect(config={**limits, "temp_directory": f"{folder}/spill"})
    db.execute(
        f"ATTACH {text(folder / 'rows.duckdb')} AS scratch (RECOVERY_MODE no_wal_writes); USE"
        " scratch"
    )
    return db


def cursor(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Another result of the database `on_disk`, while that of `db` is still being read."""
    other = db.cursor()
    other.execute("USE scratch")
    return other
