"""Which rows are the same, which were published before, and which repeat evaluation items: one
decision a row.

consumes      files of candidates, of which only narrow columns are read; indexes that earlier runs
              published
produces      decisions: file, row, reason, detail, dup_group, contamination of every row that was
              in; equal bytes for equal input
memory        DuckDB's limit, beyond which it spills into the scratch folder, and the largest group
              that `rules` compares
interrupted   nothing is written: the file of decisions is whole or absent

Priority: eval, decontaminate, rows of earlier runs, train, rl; then the order of files, then of
rows. Of rows that are the same the first stays. An evaluation item is never rejected for a train
row of any run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.curate import DedupConfig
from bimode.errors import ConfigError
from data_curation.dedup import rules
from data_curation.dedup.fingerprints import HASH_HEX, THUMB_BYTES
from data_curation.dedup.rules import CHECK, CLASS_BITS, EARLIER, EVAL, RL, TRAIN
from data_curation.parquet_sql import on_disk, parquet
from data_curation.store import MEMORY, NUMBERED, Store

FILE_BITS = 20  # of a rank, above 36 for the row
WRITE_ROWS = 20_000
DECISION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.int32()),  # which of the files of candidates
        ("row", pa.int64()),  # its place there
        ("split", pa.string()),
        # duplicate_id | duplicate | other_answer | near_duplicate | contaminated; "" if it stays
        ("reason", pa.string()),
        # id of the row that it repeats; of a duplicate id, that row's source and split
        ("detail", pa.string()),
        ("dup_group", pa.string()),  # id of the row that stands for all that are the same
        (
            "contamination",
            pa.struct([("checked", pa.bool_()), ("hit", pa.string()), ("method", pa.string())]),
        ),
    ]
)
_COMPARED = (
    "content_key",
    "question_key",
    "answer_key",
    "image_sha256",
    "image_phash",
    "image_thumbs",
    "question",
)
INDEX_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "run", "split")]
    + [(name, pa.binary() if name == "image_thumbs" else pa.string()) for name in _COMPARED]
)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Counts the rows that deduplication kept and rejected. `alive` rows entered and `kept` rows
    remain. `items` counts the remaining evaluation items; `by_ngram` is the share of them that an
    n-gram can identify, `by_image` the share that have an image. Both are None without items.
    """

    alive: int
    kept: int
    duplicate_ids: int
    duplicates: int
    near_duplicates: int
    contaminated: int
    published_before: int  # of those that are out: as an earlier run's row is the same
    methods: tuple[tuple[str, int], ...]  # by which contaminated rows were found
    items: int
    by_ngram: float | None
    by_image: float | None


def decide(
    shards: Sequence[Path],
    earlier: Sequence[Path],
    config: DedupConfig,
    out: Path,
    scratch: Path | None = None,
    memory: str = MEMORY,
    threads: int = 2,
) -> Decisions:
    """Writes DECISION_SCHEMA to `out`, in the order of `shards` and their rows. `scratch` is a
    folder for what DuckDB spills.

    Raises ConfigError for an index of an earlier run that is none.
    """
    with _database(scratch or out.parent, memory, threads) as db:
        _load(db, shards, earlier)
        rules.same_ids(db)
        rules.exact(db)
        if config.image_radius:
            rules.near_images(db, config.image_radius)
            rules.reworded(db, config.image_radius)
        if config.text_similarity:
            rules.similar_texts(db, config.text_similarity, config.text_words)
        checkable: frozenset[str] = frozenset()
        if config.ngram:
            checkable = rules.same_ngrams(db, config.ngram, config.image_radius)
        _judge(db)
        query = f"SELECT {', '.join(DECISION_SCHEMA.names)} FROM judged ORDER BY file, row"
        _write(db, query, DECISION_SCHEMA, out)
        return _count(db, checkable)


def write_index(store: Store, out: Path, run: str = "") -> None:
    """Writes INDEX_SCHEMA for the rows that are published, in the order of shards; later runs
    compare theirs with it.

    `run` names this one.
    """
    with pq.ParquetWriter(out, INDEX_SCHEMA, compression="zstd") as writer:
        for rows in store.batches(("id", "split", *_COMPARED), "reason = ''", "file, row"):
            named = rows.append_column("run", pa.array([run] * rows.num_rows, pa.string()))
            writer.write_table(named.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA))


def check_indexes(earlier: Sequence[Path]) -> None:
    """Raises ConfigError for an index of an earlier run that is none."""
    for path in earlier:
        if not path.is_file() or not set(INDEX_SCHEMA.names) <= set(pq.read_schema(path).names):
            raise ConfigError(
                "curate.dedup.against",
                path,
                "no index of a run; name the directory of one that was published",
            )


@contextmanager
def _database(
    scratch: Path, memory: str = MEMORY, threads: int = 2
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database on disk that is gone afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".decide-", dir=scratch) as folder:
        limits = {
            "memory_limit": memory,
            "threads": str(threads),
            "preserve_insertion_order": "false",
        }
        with on_disk(Path(folder), limits) as db:
            yield db


def _load(db: duckdb.DuckDBPyConnection, shards: Sequence[Path], earlier: Sequence[Path]) -> None:
    """Table `rows`: all that are compared; table `repeats`, empty; view `alive`: those that are
    still in.
    """
    db.execute("CREATE TABLE repeats (rank BIGINT, hit BIGINT, method VARCHAR)")
    db.execute(
        "CREATE TABLE rows (rank BIGINT, class INTEGER, item BOOLEAN, file INTEGER, row BIGINT, id"
        " VARCHAR, run VARCHAR, ref VARCHAR, split VARCHAR, content_key VARCHAR, question_key"
        " VARCHAR, answer_key VARCHAR, image_sha256 VARCHAR, num_images INTEGER, hashes BLOB,"
        " thumbs BLOB, question VARCHAR)"
    )
    check_indexes(earlier)
    priority = (
        f"CASE split WHEN 'eval' THEN {EVAL} WHEN 'decontaminate' THEN {CHECK}"
        f" WHEN 'train' THEN {TRAIN} ELSE {RL} END"
    )
    for table, paths, run, class_ in (
        ("shards", shards, "''", priority),
        ("earlier", earlier, "run", str(EARLIER)),
    ):
        if not paths:
            continue
        _name_files(db, table, paths)
        alive = "WHERE reason = ''" if table == "shards" else ""
        ref = "coalesce(source_refs[1], '')" if table == "shards" else "''"
        # thumbnails of another length than the hashes' are none; then pictures are compared by
        # their pixels alone
        db.execute(f"""
            INSERT INTO rows
            SELECT (class::BIGINT << {CLASS_BITS}) | (file::BIGINT << {CLASS_BITS - FILE_BITS})
                    | file_row_number, class,
                split = 'eval' OR class = {CHECK}, file, file_row_number, id, run, {ref} AS ref,
                split, content_key, question_key, answer_key, image_sha256, num_images,
                CASE WHEN num_images > 0 THEN unhex(replace(image_phash, '-', '')) END,
                CASE WHEN num_images > 0 THEN image_thumbs END, question
            FROM (
                SELECT *, {run} AS run, {class_} AS class,
                    (length(image_phash) + 1) // {HASH_HEX + 1} AS count,
                    CASE WHEN octet_length(image_thumbs) = count * {THUMB_BYTES} THEN count
                        ELSE 0 END AS num_images
                FROM {parquet(dict.fromkeys(paths), *NUMBERED)}
                JOIN {table} USING (filename) {alive}
            )
        """)
    db.execute("CREATE VIEW alive AS SELECT * FROM rows ANTI JOIN repeats USING (rank)")


def _judge(db: duckdb.DuckDBPyConnection) -> None:
    """View `judged`: DECISION_SCHEMA, and what is counted. A row's group is the end of the chain of
    those that it repeats.
    """
    db.execute(f"""
        CREATE TABLE verdicts AS
        WITH RECURSIVE chain AS (
            SELECT rank, hit FROM repeats
            UNION ALL SELECT c.rank, r.hit FROM chain c JOIN repeats r ON r.rank = c.hit
        ), stands AS (SELECT rank, min(hit) AS root FROM chain GROUP BY rank)
        SELECT p.rank, h.id AS hit, h.class = {EARLIER} AS published_before,
            CASE WHEN method = '{rules.SAME_ID}' THEN 'duplicate_id'
                WHEN h.item AND p.rank >> {CLASS_BITS} >= {TRAIN} THEN 'contaminated'
                WHEN method <> '{rules.EXACT}' THEN 'near_duplicate'
                WHEN own.answer_key <> h.answer_key THEN 'other_answer'
                ELSE 'duplicate' END AS reason,
            CASE WHEN method = '{rules.SAME_ID}' THEN h.ref || ' in ' || h.split
                WHEN h.run = '' THEN h.id ELSE h.id || ' of ' || h.run END AS detail,
            CASE WHEN method <> '{rules.SAME_ID}' THEN g.id END AS dup_group, method
        FROM repeats p JOIN rows own ON own.rank = p.rank JOIN rows h ON h.rank = p.hit
        JOIN stands s ON s.rank = p.rank JOIN rows g ON g.rank = s.root
    """)
    db.execute(f"""
        CREATE VIEW judged AS
        SELECT r.id, file, row, split,
            coalesce(reason, '') AS reason, coalesce(detail, '') AS detail,
            coalesce(dup_group, r.id) AS dup_group,
            class, question_key, num_images, published_before,
            struct_pack(checked := class >= {TRAIN},
                hit := CASE WHEN reason = 'contaminated' THEN hit ELSE '' END,
                method := CASE WHEN reason = 'contaminated' THEN method ELSE '' END
            ) AS contamination
        FROM rows r LEFT JOIN verdicts USING (rank) WHERE class <> {EARLIER}
    """)


def _count(db: duckdb.DuckDBPyConnection, checkable: frozenset[str]) -> Decisions:
    reasons = dict(db.execute("SELECT reason, count(*) FROM judged GROUP BY ALL").fetchall())
    [(before,)] = db.execute("SELECT count(*) FROM judged WHERE published_before").fetchall()
    methods = db.execute(
        "SELECT contamination.method, count(*) FROM judged WHERE reason = 'contaminated' GROUP BY"
        " ALL ORDER BY ALL"
    ).fetchall()
    items = db.execute(
        "SELECT question_key, count(*), count(*) FILTER (num_images > 0) FROM judged WHERE reason"
        f" = '' AND class <= {CHECK} GROUP BY ALL"
    ).fetchall()
    total = sum(count for _, count, _ in items)
    return Decisions(
        alive=sum(reasons.values()),
        kept=reasons.get("", 0),
        duplicate_ids=reasons.get("duplicate_id", 0),
        duplicates=reasons.get("duplicate", 0) + reasons.get("other_answer", 0),
        near_duplicates=reasons.get("near_duplicate", 0),
        contaminated=reasons.get("contaminated", 0),
        published_before=before,
        methods=tuple(methods),
        items=total,
        by_ngram=(
            sum(count for key, count, _ in items if key in checkable) / total if total else None
        ),
        by_image=sum(pictured for _, _, pictured in items) / total if total else None,
    )


def _name_files(db: duckdb.DuckDBPyConnection, table: str, paths: Sequence[Path]) -> None:
    """Table `table`: the place of each path in `paths`; one that is named twice has two."""
    files = pa.table(
        {"file": pa.array(range(len(paths)), pa.int32()), "filename": [str(path) for path in paths]}
    )
    db.register("files", files)
    db.execute(f"CREATE TABLE {table} AS SELECT * FROM files")
    db.unregister("files")


def _write(db: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema, out: Path) -> None:
    """Writes the rows of `query` to `out`, which is whole or absent."""
    partial = out.with_name(f".{out.name}.partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in db.sql(query).to_arrow_reader(WRITE_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
    partial.replace(out)
