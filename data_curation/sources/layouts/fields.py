"""The cells of foreign records, read with suspicion: what is not of the expected kind is refused by
the name of its column.

Details of refusals are short, on one line and valid UTF-8 whatever the record holds, because they
are published.
"""

from __future__ import annotations

import base64
import math
from decimal import Decimal

from bimode.inputs.row_check import MAX_TEXT
from data_curation.sources.files import ReadImage
from data_curation.sources.readers import Record

MAX_IMAGES = 32  # that are read of a record; what an engine takes is `bimode.inputs.prompt_limits`
MAX_CHOICES = 26
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BAD = "bad_record"
NO_COLUMN = "no column"  # how a detail of BAD begins


class Refused(Exception):
    """A record that becomes no question; `reason` is a key of `validate.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)


def cell(record: Record, column: str) -> object:
    """The value of `column`; a name with dots also finds the fields of a struct. Refuses a record
    without it.
    """
    if column in record:
        return record[column]
    value: object = record
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            raise Refused(BAD, f"{NO_COLUMN} {shown(column)}")
        value = value[name]
    return value


def has_column(record: Record, column: str) -> bool:
    """Whether `cell` finds it; it may be null."""
    try:
        cell(record, column)
    except Refused:
        return False
    return True


def text(value: object, column: str) -> str:
    """A string that can be written as UTF-8, without blanks around it."""
    if not isinstance(value, str):
        raise Refused(BAD, f"{column}: {type(value).__name__}, not text")
    if len(value) > MAX_TEXT:
        raise Refused(BAD, f"{column}: {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(BAD, f"{column}: half a surrogate pair") from None
    return value.strip()


def optional_text(record: Record, column: str) -> str:
    """The text of a column that may be null or missing."""
    value = record.get(column)
    return "" if value is None else text(value, column)


def scalar_text(value: object, column: str) -> str:
    """A string or a finite number, as text."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1000:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    return text(value, column)


def answer_text(value: object, column: str) -> str:
    """The same of an answer; "" for null, where it is withheld."""
    return "" if value is None else scalar_text(value, column)


def choices(value: object, column: str) -> tuple[str, ...]:
    """The texts of 2 to 26 options; none for null and for an empty list."""
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        raise Refused(BAD, f"{column}: {type(value).__name__}, not a list")
    if not 2 <= len(value) <= MAX_CHOICES:
        raise Refused(BAD, f"{column}: {len(value)} of them, not 2 to {MAX_CHOICES}")
    return tuple(scalar_text(each, column) for each in value)


def letter_at(index: object, options: tuple[str, ...], column: str) -> str:
    """The letter of the option at `index`, an integer or its digits, counted from 0; "" for null,
    where it is withheld.
    """
    if index is None:
        return ""
    if isinstance(index, str) and index.strip().isdecimal() and len(index) < 9:
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise Refused(BAD, f"{column}: not the index of one of {len(options)} choices")
    return LETTERS[index]


def letter_of(answer: str, options: tuple[str, ...], column: str) -> str:
    """The letter of the option that `answer` is, by its text, its letter or its index, in this
    order.
    """
    for same in (str, str.casefold):
        hits = [at for at, option in enumerate(options) if same(option) == same(answer)]
        if len(hits) > 1:
            raise Refused(BAD, f"{column}: the text of {len(hits)} choices")
        if hits:
            return LETTERS[hits[0]]
    plain = answer.strip("(). ").upper()
    if len(plain) == 1 and plain in LETTERS[: len(options)]:
        return plain
    return letter_at(answer, options, column)


def images(value: object, column: str, read_image: ReadImage) -> tuple[bytes, ...]:
    """One image, a list of them, or none for null."""
    many = value if isinstance(value, list) else [] if value is None else [value]
    if len(many) > MAX_IMAGES:
        raise Refused(BAD, f"{column}: {len(many)} images, {MAX_IMAGES} at most")
    return tuple(image(each, column, read_image) for each in many)


def image(value: object, column: str, read_image: ReadImage) -> bytes:
    """Encoded bytes: given as such, in a struct of bytes and path, as a data URI, or in a file."""
    if isinstance(value, dict):
        value = next(
            (value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), None
        )
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Refused(BAD, f"{column}: {type(value).__name__}, not an image")
    if value.startswith("data:"):
        return _data_uri(value, column)
    try:
        return read_image(value)
    except OSError:
        raise Refused("image_missing", f"{column}: {shown(value)}") from None
    except ValueError:
        raise Refused(BAD, f"{column}: {shown(value)} is no path inside the source") from None


def _data_uri(uri: str, column: str) -> bytes:
    head, _, body = uri.partition(",")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except ValueError:
        pass
    raise Refused(BAD, f"{column}: a data URI that is not base64")


def shown(foreign: str) -> str:
    """A foreign text as part of a detail: short, quoted and escaped."""
    return ascii(foreign[:80])
