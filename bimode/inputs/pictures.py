"""One decoder for every stage, so that all of them see the same pixels of a picture.

Curation, hashing, training, rollouts, evaluation, pages and serving get RGB of 8 bits a color:

    orientation   that of EXIF is applied, as browsers and vLLM's own loader do
    alpha         composited on white, be it a channel, a palette's or one transparent color
    gray          16 bits are scaled from 0 to 65,535; integers of 32 bits and floats from 0 to the
                  smallest of 255, 65,535 and their own maximum that holds them, floats also to 1
    CMYK, YCbCr   converted as Pillow does, which knows Adobe's inverted JPEGs
    profiles      color profiles are ignored

Only the formats below are opened, so that no other decoder of Pillow (and no Ghostscript) runs on
foreign bytes. A picture of several frames or pages is refused, since the question is about one.
A decode cannot be interrupted: it runs in C, in threads that serve others too. Its cost is
therefore bounded before, from the parts that the file itself declares: about a second for the worst
that is accepted. Pillow loops over segments, chunks and blocks in Python, and appends some to
others, so 16 MB of the smallest ones would take up to a minute.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from bimode.errors import RefusedPromptError

MAX_PARTS = 500  # of what holds no pixels; Pillow's work grows with their square
MAX_PIECES = (
    1 << 16
)  # of the pixels: IDAT chunks, sub-blocks of 255 bytes, strips, tiles of 16 x 16
MAX_SCANS = 50  # of a JPEG: each is decoded over all pixels, and 144 kB can hold thousands
MAX_TILE = 4096  # pixels on a side of a TIFF's tile, which is decoded whole
MAX_RUNS = 1 << 20  # bytes of a run-length encoded BMP, which Pillow decodes in Python
MAX_WEBP = 10 << 20  # bytes: WebP is the slowest to decode by the byte
# JPEG's markers that begin no segment, as far as Pillow knows; the others are followed by a length
ALONE = frozenset((0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))
GIF_EXTENSION, GIF_IMAGE, GIF_END = b"!,;"
START_OF_SCAN, ARITHMETIC = 0xDA, (0xC9, 0xCA, 0xCB)
ARITHMETIC_FRAME = re.compile(rb"\xff[\xc9-\xcb]\0[\x0b\x0e\x11\x14]\x08")
NO_ARITHMETIC = "arithmetic coding, whose decoder is not bounded by its bytes"
COMPRESSION, STRIPS, TILE_SIDES, TILES = 259, (273, 279), (322, 323), (324, 325)  # TIFF's tags
BYTE_TYPES = (1, 2, 6, 7)  # of a TIFF's values


def excess(kind: str, data: bytes) -> str:
    """Return what makes `data`, a file of format `kind`, too costly to decode; "" for nothing.

    Example: ``"more than 500 segments"``.
    """
    return COUNTED[kind](data)


def _jpeg_excess(data: bytes) -> str:
    at, parts = 2, 0
    while at + 4 <= len(data):
        parts += 1
        marker = data[at + 1]
        if parts > MAX_PARTS:
            return f"more than {MAX_PARTS} segments"
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in ARITHMETIC:
            return NO_ARITHMETIC
        elif marker == START_OF_SCAN:
            break
        elif marker in ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    scans = data.count(b"\xff\xda")
    return f"{scans} scans" if scans > MAX_SCANS else ""


def _png_excess(data: bytes) -> str:
    at, parts, pieces = 8, 0, 0
    while at + 8 <= len(data):
        name = data[at + 4 : at + 8]
        if name == b"IDAT":
            pieces += 1
        else:
            parts += 1
        if problem := _too_many(parts, pieces):
            return problem
        at += 12 + int.from_bytes(data[at : at + 4])
    return ""


def _gif_excess(data: bytes) -> str:
    at, parts, pieces = 13 + _table_size(data, 10), 0, 0
    while at < len(data) and data[at] != GIF_END:
        block = data[at]
        parts += block != GIF_IMAGE
        at += 1  # Pillow skips what it does not know byte by byte
        if block in (GIF_IMAGE, GIF_EXTENSION):
            at += 10 + _table_size(data, at + 8) if block == GIF_IMAGE else 1
            while at < len(data) and data[at] and pieces <= MAX_PIECES:
                at += 1 + data[at]
                pieces += 1
            at += 1
        if problem := _too_many(parts, pieces):
            return problem
    return ""


def _table_size(data: bytes, at: int) -> int:
    """The bytes of the color table that the flags at `at` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _too_many(parts: int, pieces: int) -> str:
    if parts > MAX_PARTS:
        return f"more than {MAX_PARTS} parts without pixels"
    return f"pixels in more than {MAX_PIECES} pieces" if pieces > MAX_PIECES else ""


def _tiff_excess(data: bytes) -> str:
    order = "little" if data[:1] == b"I" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for at in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, 4)
        value = number(at + 8, 2 if kind == 3 else 4)
        is_list = kind not in BYTE_TYPES or tag in STRIPS + TILES
        if is_list and count > MAX_PIECES:
            return f"{count} values in tag {tag}"
        if tag in TILE_SIDES and value > MAX_TILE:
            return f"tiles of {value} pixels"
        if tag == COMPRESSION and value in (6, 7) and ARITHMETIC_FRAME.search(data):
            return NO_ARITHMETIC
    return ""


def _bmp_excess(data: bytes) -> str:
    is_runs = len(data) >= 34 and data[14] >= 40 and data[30] in (1, 2)
    return f"{len(data)} bytes of runs" if is_runs and len(data) > MAX_RUNS else ""


def _webp_excess(data: bytes) -> str:
    return f"{len(data)} bytes" if len(data) > MAX_WEBP else ""


COUNTED: dict[str, Callable[[bytes], str]] = {
    "PNG": _png_excess,
    "JPEG": _jpeg_excess,
    "WEBP": _webp_excess,
    "GIF": _gif_excess,
    "BMP": _bmp_excess,
    "TIFF": _tiff_excess,
}


MIN_SIDE, MAX_SIDE = 8, 4096  # pixels
MAX_PIXELS = 1 << 26  # of all pictures of a row, which are in memory together
MAX_BYTES = 16 << 20
MAX_DETAIL = 200  # characters
# What Pillow raises for files that were mutated (tests/data_curation/test_validate.py).
UNDECODABLE = (OSError, SyntaxError, ValueError, IndexError, AssertionError, struct.error)
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's number of the orientation
SIDEWAYS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


@dataclass(frozen=True, slots=True)
class Format:
    """How a file of a format begins, and whether it has its end."""

    begins: Callable[[bytes], bool]
    ends: Callable[[bytes], bool]


FORMATS = {
    "PNG": Format(
        lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
        lambda data: b"IEND" in data,
    ),
    "JPEG": Format(
        lambda data: data.startswith(b"\xff\xd8\xff"),
        lambda data: data.rstrip(b"\0").endswith(b"\xff\xd9"),
    ),
    "WEBP": Format(
        lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
        lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"),
    ),
    "GIF": Format(
        lambda data: data.startswith((b"GIF87a", b"GIF89a")),
        lambda data: data.rstrip(b"\0").endswith(b";"),
    ),
    "BMP": Format(
        lambda data: data.startswith(b"BM") and b"\0" in data[2:14],  # a text may begin so
        lambda data: len(data) >= int.from_bytes(data[2:6], "little"),
    ),
    "TIFF": Format(
        lambda data: data.startswith((b"II*\0", b"MM\0*")),
        lambda data: False,  # it says nowhere how long it is
    ),
}


class PictureError(RefusedPromptError):
    """A picture that is refused. Example: ``PictureError("image", "image_size", "9000 x 9000
    pixels")``.
    """


def open_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an encoded picture to RGB, without metadata.

    Whatever can be refused before it is decoded, is. Raises PictureError, in ASCII and on one line.
    """
    kind = _kind_of(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=(kind,))
        _check_size(picture, data, max_pixels)
        _check_kind(picture, kind)
        picture.load()
        return in_rgb(picture)
    except Image.DecompressionBombError:
        raise _refusal("image_size", "too many pixels to decode") from None
    except PictureError:
        raise
    except UNDECODABLE as error:
        reason = "image_broken" if FORMATS[kind].ends(data) else "image_truncated"
        raise _refusal(reason, f"{kind}: {_why(error)}") from None


def picture_header(data: bytes) -> tuple[str, int, int]:
    """Return format, width and height as the header has them, without decoding.

    Example: ``("PNG", 40, 40)``. Raises PictureError for bytes that are no picture.
    """
    kind, picture = _opened(data)
    return kind, picture.width, picture.height


def shown_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the picture as `open_picture` turns it, without decoding.

    Raises PictureError for bytes that are no picture.
    """
    _, picture = _opened(data)
    if TURNED.get(_orientation(picture)) in SIDEWAYS:  # type: ignore[call-overload]
        return picture.height, picture.width
    return picture.width, picture.height


def _opened(data: bytes) -> tuple[str, Image.Image]:
    kind = _kind_of(data)
    try:
        return kind, Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise _refusal("image_size", "too many pixels to decode") from None
    except UNDECODABLE as error:
        raise _refusal("image_broken", f"{kind}: {_why(error)}") from None


def in_rgb(picture: Image.Image) -> Image.Image:
    """Convert an open picture as the table above says; the result is a copy without metadata."""
    turned = TURNED.get(_orientation(picture))  # type: ignore[call-overload]
    if picture.mode.startswith(("I", "F")):
        picture = _in_8_bits(picture)
    elif picture.has_transparency_data:
        seen = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    shown = picture.convert("RGB")
    if turned is not None:
        shown = shown.transpose(turned)
    shown.info = {}  # vLLM would apply the orientation once more
    return shown


def _orientation(picture: Image.Image) -> object:
    """EXIF's number; None where there is none that can be read, or another value in its place."""
    if not picture.info:
        return None
    try:
        return picture.getexif().get(Base.Orientation)
    except UNDECODABLE:
        return None


def _in_8_bits(picture: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    most = float(values.max())
    whites = (65535.0,) if picture.mode.startswith("I;16") else (255.0, 65535.0)
    if picture.mode == "F":
        whites = (1.0, *whites)
    white = next((white for white in whites if most <= white), most)
    gray = np.clip(np.rint(values * (255.0 / white)), 0, 255)
    if isinstance(transparent := picture.info.get("transparency"), int):
        gray[values == transparent] = 255
    return Image.fromarray(gray.astype(np.uint8))


def _kind_of(data: bytes) -> str:
    if not data:
        raise _refusal("image_missing", "no bytes")
    if len(data) > MAX_BYTES:
        raise _refusal("image_size", f"{len(data)} bytes")
    kind = next((name for name, form in FORMATS.items() if form.begins(data)), "")
    if not kind:
        raise _refusal("image_type", f"begins with {data[:12]!r}")
    if found := excess(kind, data):
        raise _refusal("image_size", f"a {kind} with {found}")
    return kind


def _check_size(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = picture.size
    is_small = min(width, height) < MIN_SIDE
    is_large = max(width, height) > MAX_SIDE or width * height > max_pixels
    if is_small or is_large:
        raise _refusal("image_size", f"{width} x {height} pixels, {len(data)} bytes")


def _check_kind(picture: Image.Image, kind: str) -> None:
    if picture.format == "MPO":  # a camera's JPEG with a preview behind it
        return
    if getattr(picture, "is_animated", False):
        raise _refusal("image_type", f"a {kind} of several frames")
    if picture.mode == "P" and not picture.getpalette():
        raise _refusal("image_broken", f"{kind}: no palette")
    # Pillow keeps 8 bits a color, and 16 of the transparent one: it would find no pixel of it
    if picture.mode == "RGB" and max(picture.info.get("transparency") or (0,)) > 255:
        raise _refusal("image_type", f"a {kind} of 16 bits with a transparent color")


def _why(error: BaseException) -> str:
    # Pillow's own line on a file that it does not know has an address in memory
    return "no header" if isinstance(error, UnidentifiedImageError) else str(error)


def _refusal(reason: str, detail: str) -> PictureError:
    line = ascii(detail[:MAX_DETAIL])[1:-1]
    return PictureError("image", reason, line[:MAX_DETAIL])
