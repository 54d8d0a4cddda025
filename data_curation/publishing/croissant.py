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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bimode.storage.dataset import SCHEMA
from data_curation.publishing.published import Published
from data_curation.publishing.wording import COLUMNS

TERMS = (
    "citeAs",
    "column",
    "equivalentProperty",
    "extract",
    "field",
    "fileObject",
    "fileProperty",
    "fileSet",
    "format",
    "includes",
    "isLiveDataset",
    "jsonPath",
    "key",
    "md5",
    "parentField",
    "path",
    "recordSet",
    "references",
    "regex",
    "repeated",
    "replace",
    "samplingRate",
    "separator",
    "source",
    "subField",
    "transform",
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in TERMS}
PARQUET = "application/x-parquet"
KINDS = {"string": "sc:Text", "float": "sc:Float", "int16": "sc:Integer", "bool": "sc:Boolean"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A shard, e.g. ``DataFile("data/train-00000-of-00001.parquet", size=512_000,
    sha256="9f...")``.
    """

    path: str  # relative to the published folder, with slashes
    size: int  # bytes
    sha256: str


def data_files(folder: Path) -> list[DataFile]:
    """The shards below data/ of `folder`, by name."""
    found = []
    for file in sorted((folder / "data").glob("*.parquet")):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        found.append(DataFile(f"data/{file.name}", file.stat().st_size, digest))
    return found


def croissant(
    published: Published, files: Sequence[DataFile], licenses: Sequence[str], name: str
) -> str:
    """croissant.json of data called `name`, as text; equal data gives equal bytes."""
    total = ", ".join(f"{n} {split}" for split, n in published.rows.items())
    return json.dumps(
        {
            "@context": CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": name,
            "description": (
                f"Questions with checkable answers, tagged by whether thinking pays: {total} rows."
            ),
            "license": list(licenses),
            "distribution": [*map(_file_object, files), *map(_file_set, published.rows)],
            "recordSet": [_record_set(split) for split in published.rows],
        },
        indent=1,
    )


def _file_object(file: DataFile) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": Path(file.path).name,
        "contentUrl": file.path,
        "contentSize": f"{file.size} B",
        "encodingFormat": PARQUET,
        "sha256": file.sha256,
    }


def _file_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"shards-{split}",
        "name": f"shards-{split}",
        "encodingFormat": PARQUET,
        "includes": f"data/{split}-*.parquet",
    }


def _record_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The rows of {split}.",
        "key": {"@id": f"{split}/id"},
        "field": [_column(split, column) for column in SCHEMA],
    }


def _column(split: str, column: pa.Field) -> dict[str, Any]:
    """A column as a field; a struct, or a list of structs, as a field of fields."""
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{split}/{column.name}",
        "name": column.name,
        "description": COLUMNS[column.name],
    }
    repeated = {"repeated": True} if pa.types.is_list(column.type) else {}
    kind = column.type.value_type if repeated else column.type
    if column.name == "images":
        return (
            field
            | repeated
            | {
                "dataType": "sc:ImageObject",
                "source": _source(split, column.name, "bytes"),
            }
        )
    if not pa.types.is_struct(kind):
        return (
            field | repeated | {"dataType": KINDS[str(kind)], "source": _source(split, column.name)}
        )
    inner = [
        {
            "@type": "cr:Field",
            "@id": f"{split}/{column.name}/{part.name}",
            "name": part.name,
            "dataType": KINDS[str(part.type)],
            "source": _source(split, column.name, part.name),
        }
        for part in kind
    ]
    return field | repeated | {"subField": inner}


def _source(split: str, column: str, part: str = "") -> dict[str, Any]:
    source = {"fileSet": {"@id": f"shards-{split}"}, "extract": {"column": column}}
    return source | ({"transform": {"jsonPath": part}} if part else {})
