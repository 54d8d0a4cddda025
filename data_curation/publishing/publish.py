"""The final writer: shards with Hugging Face metadata, rejects with reasons, tags. Equal work gives
equal bytes.

Rows stream from the store, ordered by id, so memory is that of a row group. `out` is a folder that
nobody reads yet (`bimode.storage.versions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bimode.config.curate import CurateConfig
from bimode.errors import StarvedError
from bimode.storage.dataset import SCHEMA, SPLITS
from bimode.storage.run_dir import digest_json
from data_curation.candidates import CANDIDATE_SCHEMA, REJECT_SCHEMA
from data_curation.formats import training_rows
from data_curation.publishing.alerts import starving
from data_curation.publishing.card import card, licenses_of
from data_curation.publishing.croissant import croissant
from data_curation.publishing.funnel import source_counts
from data_curation.publishing.published import Published
from data_curation.store import Store

SHARD_ROWS = 20_000
GROUP_ROWS = 500
GROUP_BYTES = 64 << 20
TAG_TABLE = (
    "id",
    "split",
    "task",
    "level",
    "mode",
    "mode_reason",
    "mode_conf",
    "tag_rule",
    "tag_low",
    "tag_high",
    "n_rollouts",
    "n_pass_non_thinking",
    "n_pass_thinking",
    "pass_rate_non_thinking",
    "pass_rate_thinking",
    "guess_rate",
    "rollout_model",
    "rollout_params_hash",
)
IN = "reason = ''"
TAGGED = f"{IN} AND mode_reason <> 'untagged'"


def publish(
    store: Store, config: CurateConfig, splits: Iterable[str], out: Path, name: str
) -> Published:
    """Writes data/, tags/, rejects/, README.md and croissant.json, both for data called `name`,
    below `out`; returns the counts.

    Raises StarvedError if one of `splits`, those that the sources feed, would be empty.
    """
    if why := starving(store, splits):
        raise StarvedError(why)
    alive = store.counts(["split"], IN)
    formats: Counter[str] = Counter()
    ops, rows = lineage(config), {}
    for split in (split for split in SPLITS if alive.get(split)):
        tables = (stamped(table, ops) for table in _split_tables(store, config, split, formats))
        rows[split] = write_shards(tables, SCHEMA, out / "data", split)
    published = replace(write_rejects(store, out), rows=rows, formats=dict(sorted(formats.items())))
    (out / "README.md").write_text(card(store, published, config, out, name))
    (out / "croissant.json").write_text(
        croissant(published, out, licenses_of(source_counts(store)), name)
    )
    return published


def write_rejects(store: Store, out: Path) -> Published:
    """Writes tags/ and rejects/ below `out` and returns their counts, without rows."""
    (out / "tags").mkdir(parents=True, exist_ok=True)
    tags = store.table(TAG_TABLE, TAGGED)
    pq.write_table(tags, out / "tags" / "tags.parquet", compression="zstd")
    rejected = store.batches(REJECT_SCHEMA.names, "reason <> ''")
    write_shards(
        (table.cast(REJECT_SCHEMA) for table in rejected), REJECT_SCHEMA, out / "rejects", "rejects"
    )
    reasons, modes = (
        store.counts(["reason"], "reason <> ''"),
        store.counts(["mode"], f"{TAGGED} AND split = 'train'"),
    )
    return Published(rows={}, rejects=reasons, tags=modes, formats={})


def _split_tables(
    store: Store, config: CurateConfig, split: str, formats: Counter[str]
) -> Iterator[pa.Table]:
    """The published rows of `split`, in pieces; `formats` counts what train rows are written as."""
    names = CANDIDATE_SCHEMA.names if split == "train" else SCHEMA.names
    for table in store.batches(names, f"{IN} AND split = '{split}'"):
        if split == "train":
            rows = [
                row for candidate in table.to_pylist() for row in training_rows(candidate, config)
            ]
            formats.update(row["format"] for row in rows)
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
        yield table.cast(SCHEMA)


def stamped(table: pa.Table, ops: Sequence[dict[str, str]]) -> pa.Table:
    """`table`, which has SCHEMA's columns, with what was done to its rows."""
    at = SCHEMA.get_field_index("ops")
    field = SCHEMA.field(at)
    column = pa.repeat(pa.scalar(list(ops), field.type), table.num_rows)
    return table.set_column(at, field, column).replace_schema_metadata(SCHEMA.metadata)


def lineage(config: CurateConfig) -> list[dict[str, str]]:
    """What was done to every row, in order, each with the digest of the settings that decided it;
    how fast is not among them.
    """
    settings = config.settings()
    used = {
        "read": ("sources", "source_split", "level_weights", "train", "rl", "eval"),
        "check": ("filter",),
        "dedup": ("dedup",),
        "fold": ("cross_fit_fold",),
        "tag": ("tag", "rollouts", "tag_rows", "judge"),
        "trace": ("traces",),
        "mix": ("mix",),
        "format": ("formats", "paired_share"),
    }
    return [
        {"op": op, "version": "1", "config_hash": digest_json({key: settings[key] for key in keys})}
        for op, keys in used.items()
        if op not in ("tag", "trace", "mix") or config.tags
    ]


def write_shards(tables: Iterable[pa.Table], schema: pa.Schema, folder: Path, name: str) -> int:
    """Writes `tables` as NAME-00000-of-N.parquet, ... and returns the rows. Row groups depend on
    the rows alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    written, writer = 0, None
    for group in _groups(tables):
        if writer is None or written + group.num_rows > SHARD_ROWS * len(files):
            if writer:
                writer.close()
            files.append(folder / f".{name}-{len(files)}")
            writer = pq.ParquetWriter(files[-1], schema, compression="zstd")
        writer.write_table(group, row_group_size=GROUP_ROWS)
        written += group.num_rows
    if writer is None:
        files.append(folder / f".{name}-0")
        writer = pq.ParquetWriter(files[-1], schema, compression="zstd")
    writer.close()
    for at, file in enumerate(files):
        file.rename(folder / f"{name}-{at:05d}-of-{len(files):05d}.parquet")
    return written


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of `tables` regrouped: `GROUP_ROWS` rows, or fewer where their images are large."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        start = 0
        for at, each in enumerate(image_bytes(table), 1):
            rows, size = rows + 1, size + each
            if rows == GROUP_ROWS or size >= GROUP_BYTES:
                yield pa.concat_tables([*held, table.slice(start, at - start)])
                held, start, rows, size = [], at, 0, 0
        held.append(table.slice(start))
    if rows:
        yield pa.concat_tables(held)


def image_bytes(table: pa.Table) -> list[int]:
    """Bytes of the images of each row."""
    images = table["images"].combine_chunks()
    lengths = pc.fill_null(pc.binary_length(pc.struct_field(pc.list_flatten(images), "bytes")), 0)
    return np.bincount(pc.list_parent_indices(images), lengths, table.num_rows).astype(int).tolist()
