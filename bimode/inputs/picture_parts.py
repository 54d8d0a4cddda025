"""Counts the parts of a picture's file before a decoder sees them, so that its time is bounded.

A decode cannot be interrupted: it runs in C, in threads that serve others too. What it costs is
therefore read from the file first. Pillow loops over segments, chunks and blocks in Python, and
appends some to others, so 16 MB of the smallest ones take up to a minute.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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
