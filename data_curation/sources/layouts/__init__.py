"""Layouts: foreign records -> samples. Which columns a layout reads is told in docs/data.md.

A record is never trusted: whatever stands in it, the outcome is a `Sample` or a `Refusal` that
names the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bimode import plugins
from bimode.config.curate import SourceConfig
from bimode.records import ParsedRecord, Sample
from data_curation.sources.files import ReadImage, image_reader
from data_curation.sources.layouts.columns import columns
from data_curation.sources.layouts.fields import BAD, NO_COLUMN, Refused, has_column, shown
from data_curation.sources.layouts.parsed_record import source_name, to_sample
from data_curation.sources.layouts.sets import ai2d, chartqa, gsm8k, mathvista, scienceqa
from data_curation.sources.layouts.turns import chat, llava
from data_curation.sources.readers import FilePart, Record, read_records, reference
from data_curation.sources.refusal import Refusal

__all__ = ["NO_COLUMN", "has_column", "read_record", "read_samples", "shown", "source_name"]

LAYOUTS: dict[str, Callable[[Record, SourceConfig, ReadImage], ParsedRecord]] = {
    "columns": columns,
    "chat": chat,
    "llava": llava,
    "scienceqa": scienceqa,
    "ai2d": ai2d,
    "chartqa": chartqa,
    "gsm8k": gsm8k,
    "mathvista": mathvista,
}


def read_record(
    record: Record, source: SourceConfig, ref: str, read_image: ReadImage
) -> Sample | Refusal:
    """`record` as `source.layout` reads it; `read_image` loads what it names by a path
    (`files.image_reader`).
    """
    try:
        if not isinstance(record, dict):
            raise Refused(BAD, f"{type(record).__name__}, not a record")
        return to_sample(_parsed(record, source, read_image), source, ref)
    except Refused as refused:
        return Refusal(ref, refused.reason, refused.detail)


def _parsed(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    if not plugins.is_plugin(source.layout):
        return LAYOUTS[source.layout](record, source, read_image)
    parsed = plugins.call("layout", source.layout, record, read_image)
    if not isinstance(parsed, ParsedRecord):
        problem = f"returned {type(parsed).__name__}, not a bimode.ParsedRecord"
        raise plugins.PluginError("layout", source.layout, problem)
    return parsed


def read_samples(part: FilePart, source: SourceConfig) -> Iterator[Sample | Refusal]:
    """A sample or a refusal for every row of `part`, in order."""
    read_image = image_reader(part.file, source.follow_links)
    for row, record in read_records(part):
        yield (
            record
            if isinstance(record, Refusal)
            else read_record(record, source, reference(part.file, row), read_image)
        )
