"""The rules by which a row repeats another, one after another, over the narrow columns of all
candidates in DuckDB.

consumes      view `alive`: the rows that no rule has rejected so far (`decide`); `rank` orders them
              by priority
produces      table `repeats`: rank, rank of the kept row of higher priority that it repeats, method
memory        DuckDB's limit, and the fingerprints of the largest group of rows with one question or
              one answer

A rejected row rejects no other, so nothing depends on chains of similar rows. Rows of earlier runs
are never rejected. An item of split `decontaminate` is not rejected for being similar to another:
it is evaluated elsewhere, and its own copies have to be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_curation.dedup.near_images import KeptPictures, Pictures, near_each
from data_curation.dedup.near_texts import KeptTexts
from data_curation.dedup.ngrams import EvaluationRuns, Question, numbers, share_subject, words
from data_curation.parquet_sql import cursor

EVAL, CHECK, EARLIER, TRAIN, RL = range(5)  # classes, in order of priority
CLASS_BITS = 56  # a rank is the class, the file and the row in it
SAME_ID, EXACT, NEAR_IMAGE, REWORDED, SIMILAR_TEXT = (
    "id",
    "exact question + pixels",
    "near image + question",
    "near image + answer",
    "similar text",
)
READ_ROWS = 8192
# an answer of more evaluation items than both says little about the question
COMMON_SHARE, COMMON_ITEMS = 0.05, 3
SAYS_LITTLE = re.compile(r"yes|no|true|false|none|\(?\w\)?")

Database = duckdb.DuckDBPyConnection
Pairs = list[tuple[int, int]]  # ranks of a row and of the row that it repeats


def same_ids(db: Database) -> None:
    """Keeps the first of this run's rows with one id. Items of split `decontaminate` are never
    published and may have any id.
    """
    db.execute(
        f"INSERT INTO repeats SELECT rank, min(rank) OVER (PARTITION BY id) AS hit, '{SAME_ID}'"
        f" FROM alive WHERE class NOT IN ({CHECK}, {EARLIER}) QUALIFY hit <> rank"
    )


def exact(db: Database) -> None:
    """Keeps the first of the rows with the same question and pixels."""
    db.execute(
        "INSERT INTO repeats SELECT rank, min(rank) OVER (PARTITION BY content_key) AS hit,"
        f" '{EXACT}' FROM alive QUALIFY hit <> rank AND class <> {EARLIER}"
    )


def near_images(db: Database, radius: int) -> None:
    """Keeps the first of the rows with the same question, the same answer and near pictures."""
    for n in _image_counts(db):
        found: Pairs = []
        group, kept = -1, KeptPictures(radius)
        for at, piece in _groups(
            db, "question_key, answer_key", f"alive WHERE num_images = {n}", "hashes, thumbs"
        ):
            if at != group:
                group, kept = at, KeptPictures(radius)
            ranks = piece["rank"].to_numpy()
            hits = kept.place(ranks, _pictures(piece, n), _stays(ranks))
            found += zip(ranks[hits >= 0].tolist(), hits[hits >= 0].tolist(), strict=True)
        _insert(db, found, NEAR_IMAGE)


def reworded(db: Database, radius: int) -> None:
    """Rejects train and rl rows with the picture and the answer of an evaluation item: they ask
    the same in other words.

    If the answer says little (`_says_little`), another question about the picture may well have it
    too; then the two must also share their subject (`ngrams.share_subject`).
    """
    db.execute("CREATE TABLE pairs (rank BIGINT, hit BIGINT)")
    for n in _image_counts(db):
        _append(db, "pairs", list(_same_picture_and_answer(db, n, radius)), pa.int64())
    common, found = _common_answers(db), dict[int, int]()
    rows = db.execute(
        "SELECT rank, hit, r.answer_key, r.question, i.question FROM pairs JOIN rows r USING (rank)"
        " JOIN rows i ON i.rank = hit ORDER BY rank, hit"
    )
    while piece := rows.fetchmany(READ_ROWS):
        for rank, hit, answer, question, asked in piece:
            if not _says_little(answer, common) or share_subject(question, asked):
                found.setdefault(rank, hit)
    _insert(db, found.items(), REWORDED)


def _same_picture_and_answer(db: Database, n: int, radius: int) -> Iterator[tuple[int, int]]:
    """Ranks of rows with near pictures and equal answers, of which the second is an evaluation item
    and the first is none.
    """
    group, items = -1, KeptPictures(radius)
    source = f"alive WHERE num_images = {n} AND (item OR class >= {TRAIN})"
    for at, piece in _groups(db, "answer_key", source, "hashes, thumbs, item"):
        if at != group:
            group, items = at, KeptPictures(radius)
        for is_item in (True, False):  # all items come before all others
            part = piece.filter(pc.equal(piece["item"], is_item))
            ranks = part["rank"].to_numpy()
            if is_item and len(ranks):
                items.add(ranks, _pictures(part, n))
            elif len(ranks):
                rows, hits = items.all_near(_pictures(part, n))
                yield from zip(ranks[rows].tolist(), hits.tolist(), strict=True)


def _common_answers(db: Database) -> frozenset[str]:
    counts = dict(
        db.execute("SELECT answer_key, count(*) FROM alive WHERE item GROUP BY ALL").fetchall()
    )
    least = max(COMMON_ITEMS, COMMON_SHARE * sum(counts.values()))
    return frozenset(answer for answer, count in counts.items() if count > least)


def _says_little(answer: str, common: frozenset[str]) -> bool:
    """Whether `answer` is yes, no, one letter or digit, or that of many evaluation items."""
    return answer in common or SAYS_LITTLE.fullmatch(answer) is not None


def similar_texts(db: Database, similarity: float, least_words: int) -> None:
    """Keeps the first of the free texts that are alike and have the same answer, numbers and
    pixels.
    """
    db.execute("CREATE OR REPLACE TABLE texts (question_key VARCHAR, numbers VARCHAR)")
    for questions in _questions(db, "true"):
        free = [q for q in questions if len(words(q.text)) >= least_words]
        pairs = [(q.key, " ".join(numbers(q.text))) for q in free]
        _append(db, "texts", pairs, pa.string())
    group, kept, ranks = -1, KeptTexts(similarity), list[int]()
    found: Pairs = []
    source = "alive JOIN texts USING (question_key)"
    for at, piece in _groups(db, "answer_key, image_sha256, numbers", source, "question"):
        if at != group:
            group, kept, ranks = at, KeptTexts(similarity), []
        stays = _stays(piece["rank"].to_numpy()).tolist()
        texts = piece["question"].to_pylist()
        for rank, text, always in zip(piece["rank"].to_pylist(), texts, stays, strict=True):
            hit = kept.find_or_add(text, always)
            if hit < 0:
                ranks.append(rank)
            else:
                found.append((rank, ranks[hit]))
    _insert(db, found, SIMILAR_TEXT)


def same_ngrams(db: Database, n: int, radius: int) -> frozenset[str]:
    """Rejects train and rl rows that share an n-gram and all numbers with an evaluation item, and
    show the same.

    Returns the keys of the evaluation questions that can be found this way.
    """
    items = EvaluationRuns((q for questions in _questions(db, "item") for q in questions), n)
    db.execute("CREATE OR REPLACE TABLE matches (question VARCHAR, item VARCHAR)")
    for questions in _questions(db, f"class >= {TRAIN}"):
        _append(db, "matches", list(items.matches(questions)), pa.string())
    matched = (
        f"FROM matches JOIN alive r ON r.question_key = matches.question AND r.class >= {TRAIN} "
        "JOIN alive i ON i.question_key = matches.item AND i.item"
    )
    equal = f"SELECT r.rank, min(i.rank) {matched} WHERE r.image_sha256 = i.image_sha256"
    found: dict[int, int] = dict(db.execute(f"{equal} GROUP BY r.rank").fetchall())
    for count in _image_counts(db) if radius else ():
        reader = cursor(db).sql(
            "SELECT r.rank, i.rank AS hit, r.hashes, r.thumbs, i.hashes AS hashes_i, i.thumbs AS"
            f" thumbs_i {matched} WHERE r.num_images = {count} AND i.num_images = {count} ORDER"
            " BY ALL"
        )
        for batch in reader.to_arrow_reader(READ_ROWS):
            near = near_each(_pictures(batch, count), _pictures(batch, count, "_i"), radius)
            close = batch.filter(pa.array(near))
            for rank, hit in zip(close["rank"].to_pylist(), close["hit"].to_pylist(), strict=True):
                found[rank] = min(hit, found.get(rank, hit))
    _insert(db, sorted(found.items()), f"{n}-gram")
    return items.checkable


def _groups(
    db: Database, keys: str, source: str, columns: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """`columns` of the rows of `source` that share `keys` with another, by group and rank, in
    pieces of one group.
    """
    reader = cursor(db).sql(
        f"SELECT grp, rank, {columns} FROM (SELECT rank, dense_rank() OVER (ORDER BY {keys}) AS grp"
        f" FROM {source} QUALIFY count(*) OVER (PARTITION BY {keys}) > 1) JOIN rows USING (rank)"
        " ORDER BY grp, rank"
    )
    for batch in reader.to_arrow_reader(READ_ROWS):
        group = batch["grp"].to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
        for start, stop in pairwise(cuts):
            if stop > start:
                yield int(group[start]), batch.slice(start, stop - start)


def _questions(db: Database, where: str) -> Iterator[list[Question]]:
    """The questions of the rows that fulfil a condition, each once."""
    query = (
        f"SELECT question_key, arg_min(question, rank), count(*) FROM alive WHERE {where} GROUP BY"
        " question_key ORDER BY ALL"
    )
    rows = cursor(db).execute(query)
    while piece := rows.fetchmany(READ_ROWS):
        yield [Question(*row) for row in piece]


def _image_counts(db: Database) -> list[int]:
    rows = db.execute(
        "SELECT DISTINCT num_images FROM alive WHERE num_images > 0 ORDER BY 1"
    ).fetchall()
    return [n for (n,) in rows]


def _stays(ranks: np.ndarray) -> np.ndarray:
    """Whether similarity to another row rejects none of these."""
    return np.isin(ranks >> CLASS_BITS, (CHECK, EARLIER))


def _pictures(batch: pa.RecordBatch, n: int, suffix: str = "") -> Pictures:
    hashes, thumbs = batch[f"hashes{suffix}"], batch[f"thumbs{suffix}"]
    return Pictures.of(hashes.to_pylist(), thumbs.to_pylist(), n)


def _insert(db: Database, pairs: Iterable[tuple[int, int]], method: str) -> None:
    """Adds pairs of ranks to `repeats`."""
    _append(db, "repeats", list(pairs), pa.int64(), f"'{method}'")


def _append(
    db: Database, table: str, pairs: Sequence[tuple[Any, Any]], kind: pa.DataType, *more: str
) -> None:
    """Adds `pairs` of one type to `table`, with constants behind them."""
    first = pa.array([one for one, _ in pairs], kind)
    second = pa.array([two for _, two in pairs], kind)
    db.register("new", pa.table({"one": first, "two": second}))
    db.execute(f"INSERT INTO {table} SELECT {', '.join(['one', 'two', *more])} FROM new")
    db.unregister("new")
