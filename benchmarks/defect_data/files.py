"""Records as the files that a user would have, the recipe that curates them, and the table of what
is true of each row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.defect_data.plant import EVAL_SHARDS, RL_PARQUET, TRAIN_JSONL, TRAIN_PARQUET
from benchmarks.defect_data.record import LEFT_OUT, Record

COLUMNS = {
    "question": "query",
    "answer": "label",
    "images": "images",
    "trace": "reasoning",
    "id": "uid",
    "task": "topic",
    "level": "level",
}
PARQUET = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("uid", "query", "label", "reasoning", "topic", "level", "mode")
        ),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
    ]
)
PICTURES = "pictures"  # of the JSONL files, beside them
RECIPE = """# Made by benchmarks/defects.py: {rows} rows, seed {seed}.
name = "defects"
stages = ["curate"]
seed = {seed}

[curate]
paired_share = 1.0 # both formats for every row, so that no row waits for rollouts
tag_rows = 1

[curate.filter]
languages = ["en"]
"""


@dataclass(frozen=True, slots=True)
class Truth:
    """What was planted: `file` and `row` are where, `same` is the key of the row that it copies or
    leaks.
    """

    key: str
    kind: str
    same: str
    file: str
    row: int
    pictured: bool
    split: str
    mode: str  # as the row claims


def file_of(shard: int) -> str:
    """The file of a shard, relative to the data's folder."""
    if shard in TRAIN_PARQUET:
        return f"train-columns/train-{shard}.parquet"
    if shard in TRAIN_JSONL:
        return f"train-lines/train-{shard}.jsonl"
    if shard in RL_PARQUET:
        return f"rl/rl-{shard}.parquet"
    return "eval/eval.parquet" if shard == EVAL_SHARDS[0] else "check/check.jsonl"


SOURCES = (  # folder, split, verifier
    ("train-columns", "train", "int"),
    ("train-lines", "train", "auto"),
    ("rl", "rl", "int"),
    ("eval", "eval", "int"),
    ("check", "decontaminate", "auto"),
)
SPLITS = {folder: split for folder, split, _ in SOURCES}


def write(records: Sequence[Record], folder: Path) -> list[Truth]:
    """Writes the shards of `records`, which come in the order of shards, and `truth.parquet`;
    returns the latter.
    """
    truth: list[Truth] = []
    for shard, group in groupby(records, key=lambda record: record.shard):
        rows, name = list(group), file_of(shard)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            table = pa.Table.from_pylist([_columns(row) for row in rows], schema=PARQUET)
            pq.write_table(table, file, row_group_size=500)
        else:
            write_lines(rows, file)
        truth += [_truth(row, name, at) for at, row in enumerate(rows)]
    pq.write_table(
        pa.Table.from_pylist([_as_row(each) for each in truth]), folder / "truth.parquet"
    )
    return truth


def write_lines(rows: Iterable[Record], file: Path) -> None:
    """JSONL; pictures lie beside it, named by their paths."""
    (file.parent / PICTURES).mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write((row.line or json.dumps(_line(row, file.parent), ensure_ascii=False)) + "\n")


def _line(row: Record, folder: Path) -> dict[str, Any]:
    """A record as a line of JSON."""
    images = []
    if row.image is not None:
        path = f"{PICTURES}/{row.key}.png"
        (folder / path).write_bytes(row.image)
        images = [path]
    return _fields(row, images)


def _columns(row: Record) -> dict[str, Any]:
    images = [] if row.image is None else [{"bytes": row.image, "path": f"{row.key}.png"}]
    return _fields(row, images)


def _fields(row: Record, images: list[Any]) -> dict[str, Any]:
    values = {
        "question": row.question,
        "answer": row.answer,
        "images": images,
        "trace": row.trace,
        "id": row.key,
        "task": row.task,
        "level": row.level,
        **dict(row.changed),
    }
    return {COLUMNS[name]: value for name, value in values.items() if value is not LEFT_OUT} | {
        "mode": row.mode
    }


def _truth(row: Record, name: str, at: int) -> Truth:
    split = SPLITS[name.partition("/")[0]]
    return Truth(row.key, row.kind, row.same, name, at, row.image is not None, split, row.mode)


def _as_row(truth: Truth) -> dict[str, Any]:
    return {name: getattr(truth, name) for name in Truth.__slots__}


def read_truth(folder: Path) -> list[Truth]:
    """The table that `write` wrote."""
    return [Truth(**row) for row in pq.read_table(folder / "truth.parquet").to_pylist()]


def write_recipe(folder: Path, file: Path, rows: int, seed: int) -> None:
    """The recipe that curates the files in `folder`."""
    columns = ", ".join(f"{ours} = {json.dumps(others)}" for ours, others in COLUMNS.items())
    parts = [RECIPE.format(rows=rows, seed=seed)]
    for name, split, verifier in SOURCES:
        pattern = str(
            (folder / name).absolute()
            / ("*.parquet" if name in ("train-columns", "rl", "eval") else "*.jsonl")
        )
        lines = [
            "[[curate.sources]]",
            f"path = {json.dumps(pattern)}",
            f"split = {json.dumps(split)}",
            f"name = {json.dumps(name)}",
            f"verifier = {json.dumps(verifier)}",
            'license = "CC-BY-4.0"',
            f"columns = {{ {columns} }}",
            "",
        ]
        parts.append("\n".join(lines))
    file.write_text("\n".join(parts))
