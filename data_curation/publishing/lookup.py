"""Rows of a published version by id: what was kept and what was rejected as one table, without the
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from bimode.errors import ConfigError
from bimode.storage.dataset import Row, question_of
from data_curation.parquet_sql import parquet
from data_curation.store import NUMBERED, read_candidates

MOST_NAMED = 8  # ids in a message
NOWHERE = (
    "no such row, and none like it; ids stand in data/ and rejects/, and a reference, e.g."
    " a.jsonl#6, will do as well"
)
MOST_NEIGHBOURS = 10
QUESTION = (  # what a written row was made of
    "CASE WHEN coalesce(format, '') <> '' THEN parent_ids[1] ELSE id END"
)
KEPT_FIRST = "reason <> '', id, filename, file_row_number"


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row without its images, and where it lies: the file below the version's folder, and which
    row of it.
    """

    row: Row
    file: str
    at: int

    @property
    def reason(self) -> str:
        """Why it was rejected; "" where it was kept."""
        return str(self.row["reason"] or "")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another question, in a line."""

    id: str
    split: str
    reason: str  # "" where it was kept
    question: str


class Lookup:
    """The rows of the version in `folder`. Searches go over narrow columns; of what they find only
    its row groups are read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = duckdb.connect()
        files = [
            file
            for name in ("data", "rejects")
            for file in sorted((folder / name).glob("*.parquet"))
        ]
        names = {name for file in files for name in pq.read_schema(file).names}
        reason = "coalesce(reason, '')" if "reason" in names else "''"
        own = f"id, {QUESTION} AS question_id, source, source_refs, dup_group, {reason} AS reason"
        self._db.execute(
            f"CREATE VIEW rows AS SELECT {own}, filename, file_row_number "
            f"FROM {parquet(files, 'union_by_name = true', *NUMBERED)}"
        )

    def find(self, wanted: str) -> str:
        """The question that an id, a written row's id, the id in its source, a source reference, or
        the beginning of an id means.

        Raises ConfigError where it is none or several.
        """
        own = "question_id = source || '-' || $1"
        for condition in (
            "id = $1 OR question_id = $1",
            own,
            "list_contains(source_refs, $1)",
            "starts_with(id, $1)",
        ):
            query = f"SELECT DISTINCT question_id FROM rows WHERE {condition} ORDER BY question_id"
            found = [row[0] for row in self._db.execute(query, [wanted]).fetchall()]
            if len(found) == 1:
                return str(found[0])
            if found:
                more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
                raise ConfigError(
                    "ID",
                    wanted,
                    f"fits {len(found):,} questions: {', '.join(found[:MOST_NAMED])}{more}",
                )
        near = ", ".join(self._near(wanted))
        raise ConfigError("ID", wanted, f"no such row; near it are {near}" if near else NOWHERE)

    def _near(self, wanted: str) -> list[str]:
        query = (
            "SELECT question_id FROM (SELECT DISTINCT question_id FROM rows) WHERE"
            " levenshtein(question_id, $1) <= length($1) / 3 ORDER BY levenshtein(question_id, $1),"
            " question_id LIMIT 3"
        )
        return [row[0] for row in self._db.execute(query, [wanted]).fetchall()]

    def rows(self, question: str) -> tuple[RowRef, ...]:
        """What there is of a question, kept rows first."""
        query = (
            "SELECT filename, file_row_number FROM rows WHERE question_id = $1 ORDER BY"
            f" {KEPT_FIRST}"
        )
        return tuple(self._read(*place) for place in self._db.execute(query, [question]).fetchall())

    def named(self, question: str) -> Neighbour | None:
        """The question of that id, if there is one."""
        return next(iter(self._neighbours("question_id = $1", [question])), None)

    def same_as(self, group: str, question: str) -> tuple[Neighbour, ...]:
        """The other questions of a group of repeats, kept ones first, at most `MOST_NEIGHBOURS`."""
        return (
            self._neighbours("dup_group = $1 AND question_id <> $2", [group, question])
            if group
            else ()
        )

    def _neighbours(self, condition: str, values: Sequence[str]) -> tuple[Neighbour, ...]:
        """A question in two formats is one."""
        one = f"QUALIFY row_number() OVER (PARTITION BY question_id ORDER BY {KEPT_FIRST}) = 1"
        query = (
            f"SELECT question_id, filename, file_row_number FROM rows WHERE {condition} {one} ORDER"
            f" BY {KEPT_FIRST}"
        )
        found = self._db.execute(f"{query} LIMIT {MOST_NEIGHBOURS}", values).fetchall()
        stored = [(question, self._read(*place)) for question, *place in found]
        return tuple(
            Neighbour(
                question,
                each.row["split"],
                each.reason,
                question_of(each.row) if each.row["prompt"] else "",
            )
            for question, each in stored
        )

    def _read(self, filename: str, at: int) -> RowRef:
        """One row without its images; `reason` and `detail` are empty where it was kept."""
        columns = [name for name in pq.read_schema(filename).names if name != "images"]
        [row] = read_candidates(Path(filename), [at], columns).to_pylist()
        return RowRef(
            {"reason": "", "detail": ""} | row, str(Path(filename).relative_to(self.folder)), at
        )

    def state(self, question: str) -> str:
        """Whether the question was kept, or why not."""
        query = "SELECT min(reason), count(*) FROM rows WHERE question_id = $1"
        [(reason, n)] = self._db.execute(query, [question]).fetchall()
        return "absent" if not n else str(reason) or "kept"


def fetch(db: duckdb.DuckDBPyConnection, query: str, *values: object) -> list[Row]:
    """The rows of a query as Python values."""
    cursor = db.execute(query, values)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
