"""Which files the sources of a recipe are made of, by content: what decides whether there is anything new to curate.

The list is an input of the stage. A file's digest is computed once: as long as size and time of change stay the same it is taken
from `stats.json` beside the list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bimode.curate_config import SourceConfig
from bimode.errors import ConfigError, keyed
from bimode.rundir import read_json, write_atomic
from data_curation.sources.files import SourceFile, content_digest, list_files
from data_curation.sources.layouts import NO_COLUMN
from data_curation.sources.readers import columns_of, split_file
from data_curation.sources.refusal import Refusal
from data_curation.sources.shards import FileShard

PEEKED = 20  # records of a source that are looked at before anything starts


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of one source, e.g. ``Listed(0, "/data/a.parquet", "a.parquet", "9f...")``."""

    source: int  # position in the recipe
    uri: str
    name: str
    digest: str


def list_sources(sources: Sequence[SourceConfig], file: Path) -> Path:
    """Writes the files of all sources to `file`, which stays as it is if none has changed. Raises ConfigError.

    `file` keeps its bytes, and so its digest, as long as no file of any source has other content or another place.
    """
    stats_file = file.with_name("stats.json")
    known: dict[str, Any] = read_json(stats_file) or {}
    stats, listed = {}, []
    for at, source in enumerate(sources):
        with keyed(f"curate.sources.{at}.path"):
            files = list_files(source.path, source.reader) if source.path else []
        for found in files:
            stat = [found.size, found.modified_ns]
            entry = known.get(found.uri)
            digest = entry[2] if entry and entry[:2] == stat else content_digest(found)
            stats[found.uri] = [*stat, digest]
            listed.append(asdict(Listed(at, found.uri, found.name, digest)))
    write_atomic(stats_file, json.dumps(stats))
    text = json.dumps(listed, indent=1)
    if not file.is_file() or file.read_text() != text:
        write_atomic(file, text)
    return file


def check_layouts(sources: Sequence[SourceConfig], file: Path) -> None:
    """The first records of each source have the columns that its layout reads. Raises ConfigError where none of them has."""
    listed = [Listed(**entry) for entry in reversed(json.loads(file.read_text()))]
    for at, first in sorted({each.source: each for each in listed}.items()):
        source = sources[at]
        for part in split_file(SourceFile(first.uri, first.name, 0, 0), source.reader)[:1]:
            found = list(islice(FileShard(source, part, first.digest).samples(), PEEKED))
            details = {each.detail if isinstance(each, Refusal) else "" for each in found}
            if len(details) == 1 and (detail := details.pop()).startswith(NO_COLUMN):
                fix = f"{detail} in the first {len(found)} record(s) of {first.name}, which have {', '.join(columns_of(part))}"
                key = "columns" if source.columns else "layout"
                raise ConfigError(f"curate.sources.{at}.{key}", source.columns or source.layout, fix)


def file_shards(sources: Sequence[SourceConfig], file: Path) -> list[FileShard]:
    """The shards of the files in the list at `file`."""
    shards = []
    for entry in json.loads(file.read_text()):
        listed = Listed(**entry)
        source = sources[listed.source]
        parts = split_file(SourceFile(listed.uri, listed.name, 0, 0), source.reader)
        shards += [FileShard(source, part, listed.digest) for part in parts]
    return shards
