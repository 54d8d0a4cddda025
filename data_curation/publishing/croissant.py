"""croissant.json: the published folder described for machines (Croissant 1.0,
docs.mlcommons.org/croissant).

Each shard is a FileObject with its digest, each split a FileSet of its shards and a RecordSet of
rows. Paths are relative to the file, so a folder that is copied or uploaded stays described. Date
and version are left out: equal work gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import mlcroissant as mlc
import pyarrow as pa

from bimode.storage.dataset import SCHEMA
from data_curation.publishing.published import Published
from data_curation.publishing.wording import COLUMNS

PARQUET = "application/x-parquet"
KINDS = {
    "string": mlc.DataType.TEXT,
    "float": mlc.DataType.FLOAT,
    "int16": mlc.DataType.INTEGER,
    "bool": mlc.DataType.BOOL,
}


def shard_object(file: Path) -> mlc.FileObject:
    """The shard `file`, with its size and digest; it lies in data/ of the published folder."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    path = f"data/{file.name}"
    return mlc.FileObject(
        id=path,
        name=file.name,
        content_url=path,
        content_size=f"{file.stat().st_size} B",
        encoding_formats=[PARQUET],
        sha256=digest,
    )


def croissant(published: Published, folder: Path, licenses: Sequence[str], name: str) -> str:
    """croissant.json of the data in `folder`, called `name`, as text; equal data gives equal
    bytes.
    """
    total = ", ".join(f"{n} {split}" for split, n in published.rows.items())
    about = f"Questions with checkable answers, tagged by whether thinking pays: {total} rows."
    shards = sorted((folder / "data").glob("*.parquet"))
    metadata = mlc.Metadata(
        name=name,
        description=about,
        license=list(licenses),
        distribution=[*map(shard_object, shards), *map(_file_set, published.rows)],
        record_sets=[_record_set(split) for split in published.rows],
    )
    return json.dumps(metadata.to_json(), indent=1)


def _file_set(split: str) -> mlc.FileSet:
    name = f"shards-{split}"
    shards = f"data/{split}-*.parquet"
    return mlc.FileSet(id=name, name=name, encoding_formats=[PARQUET], includes=[shards])


def _record_set(split: str) -> mlc.RecordSet:
    return mlc.RecordSet(
        id=split,
        name=split,
        description=f"The rows of {split}.",
        key=f"{split}/id",
        fields=[_field(split, column) for column in SCHEMA],
    )


def _field(split: str, column: pa.Field) -> mlc.Field:
    """A column as a field; a struct, or a list of structs, as a field of fields."""
    is_list = pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    field = mlc.Field(
        id=f"{split}/{column.name}", name=column.name, description=COLUMNS[column.name]
    )
    if is_list:
        field.repeated = True
    if column.name == "images":
        field.data_types = [mlc.DataType.IMAGE_OBJECT]
        field.source = _source(split, column.name, "bytes")
    elif pa.types.is_struct(kind):
        field.sub_fields = [_sub_field(split, column.name, part) for part in kind]
    else:
        field.data_types = [KINDS[str(kind)]]
        field.source = _source(split, column.name)
    return field


def _sub_field(split: str, column: str, part: pa.Field) -> mlc.Field:
    return mlc.Field(
        id=f"{split}/{column}/{part.name}",
        name=part.name,
        data_types=[KINDS[str(part.type)]],
        source=_source(split, column, part.name),
    )


def _source(split: str, column: str, part: str = "") -> mlc.Source:
    return mlc.Source(
        file_set=f"shards-{split}",
        extract=mlc.Extract(column=column),
        transforms=[mlc.Transform(json_path=part)] if part else [],
    )
