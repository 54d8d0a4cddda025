"""All candidates of a run as one table that stays on disk, and what later stages found out about
its rows.

Files of candidates are never changed. A stage that decides something of rows (same as another,
tagged, without a trace) writes a narrow Parquet file, keyed by file and row, with the columns that
it replaces; the table is seen through all of these. DuckDB joins and sorts, and spills to disk
beyond `MEMORY`, so a million images need little more memory than a thousand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.parquet_sql import parquet, text

MEMORY = "256MB"  # of a DuckDB; a sort of more than that goes over the disk
KEY = (("file", pa.int32()), ("row", pa.int64()))  # of a candidate: which file, and which row in it
NUMBERED = ("filename = true", "file_row_number = true")  # columns that DuckDB adds
READ_ROWS = 256
PART_BYTES = 64 << 20  # of candidate files, whose rows are sorted at once
FOUND_ROWS = 10_000


class Store:
    """The candidates of `files`, without rows of split `decontaminate`: they are published
    nowhere.
    """

    def __init__(self, files: Sequence[Path], scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.files, self._scratch = tuple(files), scratch
        self.schema = pa.schema([*KEY, *CANDIDATE_SCHEMA])
        self._views = 0
        self._db = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "temp_directory": str(scratch),
                "preserve_insertion_order": "false",
                "threads": "2",
            }
        )
        self._db.execute(
            "SET partitioned_write_flush_threshold = 256; SET partitioned_write_max_open_files = 64"
        )
        self._db.execute("CREATE TABLE names (file INTEGER, filename VARCHAR)")
        self._db.executemany(
            "INSERT INTO names VALUES (?, ?)", [[at, str(path)] for at, path in enumerate(files)]
        )
        self._view(
            "SELECT names.file, file_row_number AS row, c.* EXCLUDE (filename, file_row_number) "
            f"FROM {parquet(files, *NUMBERED)} c JOIN names USING (filename) "
            "WHERE split <> 'decontaminate'"
        )

    def add_overlay(self, overlay: Path) -> None:
        """From now on the columns of `overlay` replace the table's, in the rows that it has."""
        columns = [name for name in pq.read_schema(overlay).names if name not in dict(KEY)]
        new = ", ".join(
            f"CASE WHEN o.file IS NULL THEN t.{name} ELSE o.{name} END AS {name}"
            for name in columns
        )
        self._view(
            f"SELECT t.* REPLACE ({new}) FROM {self._name} t LEFT JOIN {parquet([overlay])} o USING"
            " (file, row)"
        )

    def table(
        self,
        columns: Sequence[str],
        where: str = "true",
        order: str = "id, file, row",
        most: int = 0,
    ) -> pa.Table:
        """Some columns of the rows that fulfil an SQL condition, in memory; only the first `most`,
        if that is given.
        """
        limit = f" LIMIT {most}" if most else ""
        found: pa.Table = (
            self._db.cursor().sql(self._query(columns, where, order) + limit).to_arrow_table()
        )
        return found.cast(pa.schema([self.schema.field(name) for name in columns]))

    def batches(
        self, columns: Sequence[str], where: str = "true", order: str = "id, file, row"
    ) -> Iterator[pa.Table]:
        """The same in pieces of `READ_ROWS` rows, of any width."""
        wide = sum(path.stat().st_size for path in self.files)
        if wide > PART_BYTES and order.startswith("id"):
            queries = self._dealt_out(columns, where, -(-wide // PART_BYTES))
        else:
            queries = iter([f"SELECT {', '.join(columns)} FROM {self._name} WHERE {where}"])
        schema = pa.schema([self.schema.field(name) for name in columns])
        for query in queries:
            for batch in (
                self._db.cursor().sql(f"{query} ORDER BY {order}").to_arrow_reader(READ_ROWS)
            ):
                yield pa.Table.from_batches([batch]).select(columns).cast(schema)

    def _dealt_out(self, columns: Sequence[str], where: str, parts: int) -> Iterator[str]:
        """Rows dealt out on disk into `parts` ranges of ids, one query a range: a sort of all rows
        at once would have to hold every image (at 1,000,000 rows DuckDB ran out of memory).
        """
        found: pa.Table = (
            self._db.cursor()
            .sql(f"SELECT id FROM {self._name} WHERE {where} ORDER BY id")
            .to_arrow_table()
        )
        ids = found["id"]
        bounds = (
            sorted({ids[at * len(ids) // parts].as_py() for at in range(1, parts)})
            if len(ids)
            else []
        )
        some = ", ".join(dict.fromkeys([*columns, "id", *dict(KEY)]))
        with tempfile.TemporaryDirectory(prefix=".ranges-", dir=self._scratch) as folder:
            self._db.execute(
                f"COPY (SELECT {some}, len(list_filter($1::VARCHAR[], lambda bound: bound <= id))"
                f" AS part FROM {self._name} WHERE {where}) TO {text(folder)} (FORMAT parquet,"
                " PARTITION_BY (part), OVERWRITE_OR_IGNORE)",
                [bounds],
            )
            for part in range(len(bounds) + 1):
                if (place := Path(folder) / f"part={part}").is_dir():
                    yield f"SELECT {some} FROM {parquet(sorted(place.iterdir()))}"

    def counts(self, by: Sequence[str], where: str = "true") -> dict[Any, int]:
        """Rows by the values of `by`: a value where it is one column, else a tuple; in order."""
        names = ", ".join(by)
        rows = self._db.execute(
            f"SELECT {names}, count(*) FROM {self._name} WHERE {where} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        return {(row[0] if len(by) == 1 else tuple(row[:-1])): row[-1] for row in rows}

    def close(self) -> None:
        """Lets go of files and memory."""
        self._db.close()

    def _query(self, columns: Sequence[str], where: str, order: str) -> str:
        return f"SELECT {', '.join(columns)} FROM {self._name} WHERE {where} ORDER BY {order}"

    @property
    def _name(self) -> str:
        return f"rows_{self._views}"

    def _view(self, query: str) -> None:
        self._db.execute(f"CREATE VIEW rows_{self._views + 1} AS {query}")
        self._views += 1


def read_candidates(file: Path, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Some rows of one file of candidates, in the order of `rows`; only the row groups they are in
    are read.
    """
    source = pq.ParquetFile(file)
    sizes = [source.metadata.row_group(g).num_rows for g in range(source.num_row_groups)]
    starts = [sum(sizes[:g]) for g in range(len(sizes))]
    groups = [
        g for g, start in enumerate(starts) if any(start <= row < start + sizes[g] for row in rows)
    ]
    place = {
        row: at
        for at, row in enumerate(r for g in groups for r in range(starts[g], starts[g] + sizes[g]))
    }
    return source.read_row_groups(groups, columns=list(columns)).take([place[row] for row in rows])


def write_overlay(
    columns: Sequence[tuple[str, pa.DataType]], rows: Iterable[Mapping[str, Any]], file: Path
) -> Path:
    """What a stage found out of `rows` (each with file, row and `columns`), for `Store.apply`;
    written whole or not at all.
    """
    schema, partial = pa.schema([*KEY, *columns]), file.with_name(f".{file.name}")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for some in batched(rows, FOUND_ROWS):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
    return partial.replace(file)


def batched(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    """`rows` in lists of `size`."""
    left = iter(rows)
    while some := list(islice(left, size)):
        yield some
