"""The layout of any table: the recipe says which of its columns is what."""

from __future__ import annotations

from bimode.config.curate import SourceConfig
from bimode.modes import THINK_CLOSE, THINK_OPEN
from bimode.records import ParsedRecord
from data_curation.sources.files import ReadImage
from data_curation.sources.layouts.fields import (
    BAD,
    Refused,
    answer_text,
    cell,
    choices,
    images,
    letter_at,
    letter_of,
    scalar_text,
    text,
)
from data_curation.sources.readers import Record

MAX_ID = 200  # characters


def columns(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """Our name = theirs; a name with dots reaches into a struct. What is mapped as images or
    choices must be there, or null.

    The answer to choices is the text of one, its letter, or its index from 0. A level that is none
    of ours is left out.
    """
    column_map = source.columns
    options: tuple[str, ...] = ()
    answer = cell(record, column_map["answer"])
    if "choices" in column_map:
        raw = cell(record, column_map["choices"])
        options = choices(raw, column_map["choices"])
        answer = (
            _letter(answer, options, raw, column_map["answer"])
            if options and answer is not None
            else answer
        )
    trace = (
        _optional(record, column_map, "trace")
        .removeprefix(THINK_OPEN)
        .removesuffix(THINK_CLOSE)
        .strip()
    )
    key = _optional(record, column_map, "id")
    if len(key) > MAX_ID or not key.isprintable():
        raise Refused(
            BAD, f"{column_map['id']}: an id of more than {MAX_ID} or of unprintable characters"
        )
    return ParsedRecord(
        question=text(cell(record, column_map["question"]), column_map["question"]),
        answer=answer_text(answer, column_map["answer"]),
        images=(
            images(cell(record, column_map["images"]), column_map["images"], read_image)
            if "images" in column_map
            else ()
        ),
        trace=trace,
        choices=options,
        id=key,
        task=_optional(record, column_map, "task"),
        level=_optional(record, column_map, "level"),
    )


def _letter(answer: object, options: tuple[str, ...], raw: object, column: str) -> str:
    """A number is an index, unless the choices are numbers themselves."""
    if (
        isinstance(answer, int)
        and isinstance(raw, list)
        and all(isinstance(each, str) for each in raw)
    ):
        return letter_at(answer, options, column)
    words = scalar_text(answer, column)
    return letter_of(words, options, column) if words else ""


def _optional(record: Record, column_map: dict[str, str], ours: str) -> str:
    """The text of a column that need not be mapped, and may be null or missing."""
    try:
        value = cell(record, column_map[ours]) if ours in column_map else None
    except Refused:
        value = None
    return "" if value is None else scalar_text(value, column_map[ours])
