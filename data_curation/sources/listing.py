"""Which files the sources of a recipe are made of, by content: what decides whether there is
anything new to curate.

The list is an input of the stage. A file's digest is computed once: as long as size and time of
change stay the same it is taken from `stats.json` beside the list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bimode.config.curate import SourceConfig
from bimode.errors import ConfigError, config_errors
from bimode.storage.run_dir import read_json, write_atomic
from data_curation.sources.files import SourceFile, content_digest, list_files
from data_curation.sources.layouts import NO_COLUMN, has_column, shown, source_name
from data_curation.sources.readers import FilePart, columns_of, read_records, split_file
from data_curation.sources.refusal import Refusal
from data_curation.sources.shards import FileShard

PEEKED, PEEKED_FILES = (
    200,
    5,
)  # records of a file, and files of a source, that are looked at before anything starts


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of one source, e.g. ``Listed(0, "/data/a.parquet", "a.parquet", "9f...")``."""

    source: int  # position in the recipe
    uri: str
    name: str
    digest: str

    def parts(self, source: SourceConfig) -> list[FilePart]:
        """What can be read side by side."""
        return split_file(SourceFile(self.uri, self.name, 0, 0), source.reader)


def list_sources(sources: Sequence[SourceConfig], file: Path) -> Path:
    """Writes the files of all sources to `file`, which stays as it is if none has changed. Raises
    ConfigError.

    `file` keeps its bytes, and so its digest, as long as no file of any source has other content or
    another place.
    """
    _check_names(sources)
    stats_file = file.with_name("stats.json")
    known: dict[str, Any] = read_json(stats_file) or {}
    stats, listed = {}, []
    for at, source in enumerate(sources):
        with config_errors(f"curate.sources.{at}.path"):
            files = (
                list_files(source.path, source.reader, source.follow_links) if source.path else []
            )
        for found in files:
            stat = [found.size, found.modified_ns]
            entry = known.get(found.uri)
            with config_errors(f"curate.sources.{at}.path"):
                digest = entry[2] if entry and entry[:2] == stat else content_digest(found)
            stats[found.uri] = [*stat, digest]
            listed.append(asdict(Listed(at, found.uri, found.name, digest)))
    write_atomic(stats_file, json.dumps(stats))
    text = json.dumps(listed, indent=1)
    if not file.is_file() or file.read_text() != text:
        write_atomic(file, text)
    return file


def _check_names(sources: Sequence[SourceConfig]) -> None:
    """Ids begin with the name of their source, so two of one name would take each other's rows for
    their own.
    """
    first: dict[str, int] = {}
    for at, source in enumerate(sources):
        name = source_name(source) if source.path else ""
        if name and first.setdefault(name, at) != at:
            fix = (
                f"is the name of curate.sources.{first[name]} too, so that ids would be the same;"
                " give each a `name`"
            )
            raise ConfigError(f"curate.sources.{at}.name", name, fix)


def check_layouts(sources: Sequence[SourceConfig], file: Path) -> None:
    """Some of the first records of each source have the columns that its layout reads. Raises
    ConfigError where none has.
    """
    listed = _read(file)
    for at, source in enumerate(sources):
        files = [each for each in listed if each.source == at][:PEEKED_FILES]
        parts = [part for each in files for part in each.parts(source)[:1]]
        if detail := _unmapped(source, parts) or _lacks(source, parts):
            names = next(filter(None, map(columns_of, parts)), ["no column at all"])
            key = "columns" if source.columns else "layout"
            fix = f"{detail} in the first records of {files[0].name}, which have {', '.join(names)}"
            raise ConfigError(f"curate.sources.{at}.{key}", source.columns or source.layout, fix)


def _unmapped(source: SourceConfig, parts: Sequence[FilePart]) -> str:
    """The mapped columns that none of the first records has; those that need not be in every record
    too: the user named them.
    """
    missing, seen = (
        list(dict.fromkeys(source.columns.values())) if source.layout == "columns" else [],
        False,
    )
    for record in (
        record for part in parts if missing for _, record in islice(read_records(part), PEEKED)
    ):
        if isinstance(record, dict):
            seen, missing = True, [column for column in missing if not has_column(record, column)]
        if not missing:
            return ""
    return ", ".join(f"{NO_COLUMN} {shown(column)}" for column in missing) if seen else ""


def _lacks(source: SourceConfig, parts: Sequence[FilePart]) -> str:
    """What the first record that lacks a column lacks; "" where none does, or one record is sound.

    Records that are refused for anything else say nothing of the columns.
    """
    detail = ""
    for part in parts:
        for sample in islice(FileShard(source, part, "").samples(), PEEKED):
            if not isinstance(sample, Refusal):
                return ""
            detail = detail or (sample.detail if sample.detail.startswith(NO_COLUMN) else "")
    return detail


def file_shards(sources: Sequence[SourceConfig], file: Path) -> list[FileShard]:
    """The shards of the files in the list at `file`."""
    return [
        FileShard(source, part, listed.digest)
        for listed in _read(file)
        for source in (sources[listed.source],)
        for part in listed.parts(source)
    ]


def _read(file: Path) -> list[Listed]:
    return [Listed(**entry) for entry in json.loads(file.read_text())]
