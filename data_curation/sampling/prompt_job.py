"""Replies of a model to rows, asked for in rounds until there are enough: what the judge and the
traces have in common.

    consumes      candidates that still need one
    produces      one `Reply` a completion, in a cache of Parquet parts; each engine writes its own
    waits for     one engine start a run; nothing at all where the cache holds enough
    interrupted   at most the batch that each engine was working on is asked again

A reply is known by (row id, its content, round, number), and a cache folder by what decides the
model's words. A round asks for as many replies as are missing, from a seed of its own: it follows
from the row and the rounds before it, so that the cache gives what an undisturbed run would have
given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from bimode.errors import RowNote
from bimode.records import Completion, GenerationRequest
from bimode.storage.dataset import Row
from data_curation.parquet_sql import parquet
from data_curation.sampling.parts import compact, parts_of, write_part
from data_curation.sampling.pool import MAX_ERROR, ROWS_PER_BATCH, run_pool, with_candidates
from data_curation.store import MEMORY, READ_ROWS

KEY = ("id", "content", "round", "number")


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion, e.g. ``Reply("open-7", "9f..", 0, 3, "thinking", 1.0, 12, "</think>thinking",
    "")``.
    """

    id: str
    content: str
    round: int
    number: int  # in its round; -1 with an error
    verdict: str  # the asker's, on the text
    penalty: float  # repetition penalty that it was drawn under
    num_tokens: int  # after <think>, the forced ones counted
    text: str  # after <think>
    error: str  # why the model was not asked, "" where it was


REPLY_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("content", pa.string()),
        ("round", pa.int16()),
        ("number", pa.int16()),
        ("verdict", pa.string()),
        ("penalty", pa.float32()),
        ("num_tokens", pa.int32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)


class PromptJob(Protocol):
    """Who asks, what, and how often. Picklable; `open_worker` makes a rollout worker (`generate`)
    in an actor with the ray.remote options `options`. `columns` are those of a candidate that a
    request needs, `rounds` how often a row may be asked.
    """

    @property
    def open_worker(self) -> Callable[[], Any]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def params_hash(self) -> str:
        """Digest of all that decides a reply's text."""

    def missing(self, sound: int) -> int:
        """How many replies are still to be asked for when `sound` are there; 0 = enough."""

    def request(self, row: Row, n: int, renderer: Any) -> GenerationRequest:
        """`n` replies to `row`, which has `columns`, the columns of `chosen` and `round`.
        `renderer` is the worker's.
        """

    def verdict(self, row: Row, completion: Completion) -> str:
        """What the completion comes to, in a word that is cached with it."""

    def sound(self, row: Row, reply: Reply) -> bool:
        """Whether the reply counts. `row` has the columns of `chosen` here."""


def missing_rows(chosen: pa.Table, job: PromptJob, folder: Path) -> list[list[Row]]:
    """The rows of `chosen` (file, row, id, content and what `job.sound` needs) that have not
    enough replies in `folder`.

    In batches, with `round` (the next) and `sound` (replies so far). Batches are cut before what is
    there is left out, so that after an interruption the same rows meet in an engine.
    """
    batches: list[list[Row]] = []
    for at, (row, replies) in enumerate(read_replies(folder, chosen)):
        if at % ROWS_PER_BATCH == 0:
            batches.append([])
        completed = [reply for reply in replies if not reply.error]
        sound, following = (
            sum(job.sound(row, reply) for reply in completed),
            1 + max((r.round for r in completed), default=-1),
        )
        if job.missing(sound) and following < job.rounds:
            batches[-1].append(row | {"round": following, "sound": sound})
    return [batch for batch in batches if batch]


def ask(
    files: Sequence[Path],
    batches: Sequence[list[Row]],
    job: PromptJob,
    folder: Path,
    on_done: Callable[[int], None],
) -> None:
    """Asks until the rows of `batches` have enough replies in `folder` or may be asked no more;
    `on_done` hears of rows.

    A row that the engine refuses gets a reply with an `error`, and is tried again in the next run.
    Needs a connected Ray.
    """
    for settled in _run_engine(files, batches, job, folder) if batches else ():
        on_done(settled)
    compact(folder, KEY)


def read_replies(folder: Path, chosen: pa.Table) -> Iterator[tuple[Row, list[Reply]]]:
    """Each row of `chosen` with what `folder` holds of it, ordered by id, round and number. DuckDB
    joins, and spills to disk.
    """
    import duckdb

    parts = parts_of(folder)
    if not parts:
        yield from ((row, []) for row in chosen.sort_by("id").to_pylist())
        return
    columns = ", ".join(f"r.{name} AS r_{name}" for name in REPLY_SCHEMA.names)
    completed = (
        f"SELECT DISTINCT ON ({', '.join(KEY)}) * FROM {parquet(parts)} ORDER BY {', '.join(KEY)},"
        " text"
    )
    query = f"SELECT c.*, {columns} FROM chosen c LEFT JOIN ({completed}) r USING (id, content)"
    with duckdb.connect(config={"memory_limit": MEMORY}) as db:
        db.register("chosen", chosen)
        reader = db.sql(f"{query} ORDER BY c.id, c.file, c.row, r.round, r.number").to_arrow_reader(
            READ_ROWS
        )
        rows = (row for batch in reader for row in batch.to_pylist())
        for _, group in groupby(rows, key=lambda row: (row["id"], row["file"], row["row"])):
            found = list(group)
            own = {name: found[0][name] for name in chosen.column_names}
            yield own, [_reply(row) for row in found if row["r_id"] is not None]


def _reply(row: Row) -> Reply:
    return Reply(**{name: row[f"r_{name}"] for name in REPLY_SCHEMA.names})


class PromptWorker:
    """One engine of the pool: (file, row, next round, sound replies so far) in, replies in the
    cache out.
    """

    def __init__(self, files: Sequence[Path], job: PromptJob, folder: Path) -> None:
        self.files, self.job, self.folder = files, job, folder
        self.worker = job.open_worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        places = with_candidates(self.files, batch.to_pylist(), self.job.columns)
        write_part(
            self.folder, self.ask([candidate | row for candidate, row in places]), REPLY_SCHEMA
        )
        return pa.table({"settled": [batch.num_rows]})

    def ask(self, rows: Sequence[Row]) -> list[Reply]:
        """Rounds over `rows` until each has enough replies, or has been asked as often as it may
        be.
        """
        replies: list[Reply] = []
        while rows:
            missing = [self.job.missing(row["sound"]) for row in rows]
            requests = [
                self.job.request(row, n, self.worker.renderer)
                for row, n in zip(rows, missing, strict=True)
            ]
            again = []
            for row, new in zip(rows, self._draw(rows, requests), strict=True):
                replies += new
                sound = row["sound"] + sum(self.job.sound(row, reply) for reply in new)
                if (
                    not new[0].error
                    and self.job.missing(sound)
                    and row["round"] + 1 < self.job.rounds
                ):
                    again.append(row | {"round": row["round"] + 1, "sound": sound})
            rows = again
        return replies

    def _draw(
        self, rows: Sequence[Row], requests: Sequence[GenerationRequest]
    ) -> Iterator[list[Reply]]:
        """The replies to each request; one with an error where the worker refuses it."""
        for row, request, result in zip(
            rows, requests, self.worker.generate(requests), strict=True
        ):
            error, penalty = result.refused[:MAX_ERROR], request.repetition_penalty
            blank = Reply(row["id"], row["content"], row["round"], -1, "", penalty, 0, "", error)
            if error:
                yield [blank]
                continue
            with RowNote(row["id"]):
                replies = [
                    self._read(blank, k, row, each) for k, each in enumerate(result.completions)
                ]
            yield replies

    def _read(self, blank: Reply, number: int, row: Row, completion: Completion) -> Reply:
        verdict = self.job.verdict(row, completion)
        return replace(
            blank,
            number=number,
            verdict=verdict,
            num_tokens=completion.num_tokens,
            text=completion.text,
        )


def _run_engine(
    files: Sequence[Path], batches: Sequence[list[Row]], job: PromptJob, folder: Path
) -> Iterator[int]:
    """One Ray Data job; says how many rows each batch has settled, in whatever order they
    finish.
    """
    yield from run_pool(PromptWorker, (files, job, folder), batches, job.concurrency, job.options)
