"""All candidates of a run as one table that stays on disk, with what later stages decided about its
rows.

Files of candidates are never changed. A stage that decides something about rows (repeated, tagged,
without a trace) writes an overlay: a narrow Parquet file, keyed by file and row, with the columns
that it replaces. The table is seen through all overlays. DuckDB joins and sorts, and spills to disk
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

from bimode.storage.dataset import Row
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.parquet_sql import parquet, text

MEMORY = "256MB"  # of a DuckDB; a sort of more than that goes over the disk
KEY = (("file", pa.int32()), ("row", pa.int64()))  # of a candidate: which file, and which row in it
NUMBERED = ("filename = true", "file_row_number = true")  # columns that DuckDB adds
READ_ROWS = 256
PART_BYTES = 64 << 20  # of candidate files, whose rows are sorted at once
UPDATE_ROWS = 10_000


class Store:
    """The candidates of `files` without those of split `decontaminate`, which are never
    published.
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
        """Replaces the columns that the file `overlay` has, in the rows that it has."""
        columns = [name for name in pq.read_schema(overlay).names if name not in dict(KEY)]
        new = ", ".join(
            f"CASE WHEN o.file IS NULL THEN t.{name} ELSE o.{name} END AS {name}"
            for name in columns
        )
        self._view(
            f"SELECT t.* REPLACE ({new}) FROM {self._name} t LEFT JOIN {parquet([overlay])} o USING"
            " (file, row)"
        )

    def update(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces `columns` in `rows` (each with file and row); a column that a row lacks becomes
        null. `rows` may still read the table as it was.
        """
        fields = [self.schema.field(name) for name in (*dict(KEY), *columns)]
        schema, overlay = pa.schema(fields), self._scratch / f"overlay-{self._views}.parquet"
        left = iter(rows)
        with pq.ParquetWriter(overlay, schema, compression="zstd") as writer:
            while some := list(islice(left, UPDATE_ROWS)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
        self.add_overlay(overlay)

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
        query = f"SELECT {', '.join(columns)} FROM {self._name} WHERE {where} ORDER BY {order}"
        found = self.query(f"{query} LIMIT {most}" if most else query).to_arrow_table()
        return found.cast(self._schema_of(columns))

    def batches(
        self, columns: Sequence[str], where: str = "true", order: str = "id, file, row"
    ) -> Iterator[pa.Table]:
        """The same in pieces of `READ_ROWS` rows, of any width."""
        wide = sum(path.stat().st_size for path in self.files)
        if wide > PART_BYTES and order.startswith("id"):
            queries = self._dealt_out(columns, where, -(-wide // PART_BYTES))
        else:
            queries = iter([f"SELECT {', '.join(columns)} FROM {self._name} WHERE {where}"])
        schema = self._schema_of(columns)
        for query in queries:
            for batch in self.query(f"{query} ORDER BY {order}").to_arrow_reader(READ_ROWS):
                yield pa.Table.from_batches([batch]).select(columns).cast(schema)

    def _dealt_out(self, columns: Sequence[str], where: str, parts: int) -> Iterator[str]:
        """Rows dealt out on disk into `parts` ranges of ids, one query a range: a sort of all rows
        at once would have to hold every image (at 1,000,000 rows DuckDB ran out of memory).
        """
        found = self.query(f"SELECT id FROM {self._name} WHERE {where} ORDER BY id")
        ids = found.to_arrow_table()["id"].to_pylist()
        bounds = sorted({ids[at * len(ids) // parts] for at in range(1, parts)}) if ids else []
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

    def query(self, sql: str) -> duckdb.DuckDBPyRelation:
        """A result of its own, which may be read while others are."""
        return self._db.cursor().sql(sql)

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])

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


def with_candidates(
    files: Sequence[Path], wanted: Sequence[Row], columns: Sequence[str]
) -> Iterator[tuple[Row, Row]]:
    """Yields `columns` of the candidate and the row itself for each of `wanted` (file, row), file
    by file.
    """
    for file in dict.fromkeys(row["file"] for row in wanted):
        of_file = [row for row in wanted if row["file"] == file]
        found = read_candidates(files[file], [row["row"] for row in of_file], columns).to_pylist()
        yield from zip(found, of_file, strict=True)
