"""The final writer: shards with Hugging Face metadata, rejects with reasons, a card. Equal work gives equal bytes.

Everything is written into a hidden folder first and renamed at the end, so that a reader sees a whole version or none.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bimode.config import CurateConfig
from bimode.dataset import HF_FEATURES, SCHEMA, SPLITS
from bimode.errors import StarvedError
from bimode.rundir import digest_json
from data_curation.candidates import REJECT_SCHEMA, replace_columns
from data_curation.formats import training_rows
from data_curation.tagging import tag_table

SHARD_ROWS = 20_000
GROUP_ROWS = 500


@dataclass(frozen=True, slots=True)
class Published:
    """Counts of a published version: rows by split, rejects by reason, tags of the train questions, rows by format."""

    rows: dict[str, int]
    rejects: dict[str, int]
    tags: dict[str, int]
    formats: dict[str, int]

    @property
    def reasoning_share(self) -> float | None:
        """Thinking tags over all tagged train questions; None where nothing was tagged."""
        total = sum(self.tags.values())
        return self.tags.get("thinking", 0) / total if total else None


def publish(candidates: pa.Table, config: CurateConfig, out: Path) -> Published:
    """Writes data/, tags/, rejects/ and README.md below `out` and returns the counts.

    Raises StarvedError, and leaves what is there, if a split would be empty.
    """
    alive = candidates.filter(pc.equal(candidates["reason"], ""))
    rejected = candidates.filter(pc.not_equal(candidates["reason"], ""))
    by_split = {split: alive.filter(pc.equal(alive["split"], split)) for split in SPLITS}
    train = [row for c in by_split["train"].to_pylist() for row in training_rows(c, config)]
    tables = {
        "train": pa.Table.from_pylist(train, schema=SCHEMA).sort_by("id"),
        "rl": by_split["rl"].select(SCHEMA.names).cast(SCHEMA),
        "eval": by_split["eval"].select(SCHEMA.names).cast(SCHEMA),
    }
    rejects = dict(sorted(Counter(rejected["reason"].to_pylist()).items()))
    if empty := [split for split, table in tables.items() if not table.num_rows]:
        raise StarvedError(f"curate left no {' and no '.join(empty)} rows; rejected by reason: {rejects}")
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    ops = lineage(config)
    for split, table in tables.items():
        stamped = replace_columns(table, {"ops": [ops] * table.num_rows})
        _write_shards(stamped.replace_schema_metadata(SCHEMA.metadata), partial / "data", split)
    (partial / "tags").mkdir(parents=True)
    pq.write_table(tag_table(alive), partial / "tags" / "tags.parquet", compression="zstd")
    (partial / "rejects").mkdir()
    pq.write_table(
        rejected.select(REJECT_SCHEMA.names).cast(REJECT_SCHEMA), partial / "rejects" / "rejects.parquet", compression="zstd"
    )
    published = Published(
        rows={split: table.num_rows for split, table in tables.items()},
        rejects=rejects,
        tags=dict(sorted(Counter(tag_table(by_split["train"])["mode"].to_pylist()).items())),
        formats=dict(sorted(Counter(row["format"] for row in train).items())),
    )
    (partial / "README.md").write_text(card(candidates, published))
    for name in ("data", "tags", "rejects", "README.md"):
        target = out / name
        if target.is_dir():
            shutil.rmtree(target)
        (partial / name).rename(target)
    partial.rmdir()
    return published


def lineage(config: CurateConfig) -> list[dict[str, str]]:
    """What was done to every row, in order, each with the digest of the settings that decided it."""
    settings = config.model_dump(mode="json")
    used = {
        "draw": ("sources", "source_split", "level_weights", "train", "rl", "eval"),
        "check": (),
        "exact_dedup": (),
        "tag": ("tag", "rollouts", "tag_rows"),
        "format": ("formats", "paired_share"),
    }
    return [
        {"op": op, "version": "1", "config_hash": digest_json({key: settings[key] for key in keys})}
        for op, keys in used.items()
        if op != "tag" or config.tags
    ]


def _write_shards(table: pa.Table, folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, -(-table.num_rows // SHARD_ROWS))
    for k in range(count):
        part = table.slice(k * SHARD_ROWS, SHARD_ROWS)
        pq.write_table(part, folder / f"{split}-{k:05d}-of-{count:05d}.parquet", compression="zstd", row_group_size=GROUP_ROWS)


def card(candidates: pa.Table, published: Published) -> str:
    """The data set card: YAML that lets `datasets` decode the images, then what is in it and under which licences."""
    sources = sorted(set(zip(*(candidates[c].to_pylist() for c in ("source", "source_license")), strict=True)))
    files = "\n".join(f"  - split: {s}\n    path: data/{s}-*.parquet" for s in SPLITS)
    share = published.reasoning_share
    lines = [
        "---", "configs:", "- config_name: default", "  data_files:", files, "dataset_info:",
        f"  features: {json.dumps(_yaml_features())}", "---", "", "# Curated bi-mode data", "",
        "| split | rows |", "|---|---|", *(f"| {k} | {v} |" for k, v in published.rows.items()), "",
        f"Formats of the train rows: {published.formats}. Tags of the train questions: {published.tags or 'none'}"
        + (f" (reasoning share {share:.0%})." if share is not None else "."),
        f"Rejected, by reason: {published.rejects or 'none'}.", "", "| source | licence |", "|---|---|",
        *(f"| {source} | {licence} |" for source, licence in sources), "",
        "Thinking traces are the generators' own (`trace_source` = oracle). Known limit: one canvas size, one language.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _yaml_features() -> list[dict[str, object]]:
    """Only the image column has to be named: `datasets` reads the others off the Parquet schema's metadata."""
    return [{"name": name, **_feature(spec)} for name, spec in HF_FEATURES.items()]


def _feature(spec: object) -> dict[str, object]:
    if isinstance(spec, dict) and spec.get("_type") == "Image":
        return {"dtype": "image"}
    if isinstance(spec, dict) and spec.get("_type") == "Value":
        return {"dtype": spec["dtype"]}
    if isinstance(spec, dict) and spec.get("_type") == "List":
        inner = _feature(spec["feature"])
        return {"list": inner.get("dtype", inner.get("struct"))}
    assert isinstance(spec, dict)
    return {"struct": [{"name": name, **_feature(sub)} for name, sub in spec.items()]}
