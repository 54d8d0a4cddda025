"""Encoded pictures of every kind, with pixels that were worked out by hand.

Whoever decodes a file of them has to see these pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

BLACK, GRAY, WHITE = (0, 0, 0), (127, 127, 127), (255, 255, 255)
RED, BLUE = (255, 0, 0), (0, 0, 255)
LEFT, RIGHT, BOTTOM = (2, 2), (13, 2), (13, 13)  # pixels of a picture of 16 x 16
Pixel = tuple[int, int]
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Kind:
    """A file, the size that it is shown in, and some of its pixels."""

    data: bytes
    size: Pixel
    pixels: dict[Pixel, Color]


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    """16 x 16 pixels, `left` on the left."""
    picture = Image.new(mode, (16, 16), right)
    picture.paste(left, (0, 0, 8, 16))
    return picture


def oriented(picture: Image.Image, number: int, kind: str = "PNG", **options: Any) -> bytes:
    """A file whose EXIF data says that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(picture, kind, exif=exif, **options)


def png_of_16_bits(color_type: int, *values: int, transparent: bytes = b"") -> bytes:
    """A PNG of 16 x 16 equal pixels, whose channels are `values`; Pillow writes no such colors."""
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * 16
    header = struct.pack(">IIBBBBB", 16, 16, 16, color_type, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(row * 16)),
        (b"IEND", b""),
    ]
    written = [name + body for name, body in chunks if body or name == b"IEND"]
    framed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in written
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def drawing(mode: str = "RGBA") -> Image.Image:
    """Black on nothing: opaque on the left, clear on the right, of alpha 128 at the bottom."""
    picture = halves((0, 0, 0, 255), (0, 0, 0, 0), "RGBA")
    picture.paste((0, 0, 0, 128), (0, 8, 16, 16))
    return picture.convert(mode)


def deep(kind: type, left: float, right: float) -> Image.Image:
    """Gray of more than 8 bits."""
    values = np.full((16, 16), right, dtype=kind)
    values[:, :8] = left
    return Image.fromarray(values)


def palette() -> Image.Image:
    """Red on the left; black, of number 0, on the right."""
    picture = halves(1, 0, "P")
    picture.putpalette([0, 0, 0, 255, 0, 0])
    return picture


SIDE = (16, 16)
WIDE = Image.new("RGB", (64, 32), WHITE)
WIDE.paste(BLACK, (0, 0, 32, 32))
TURNED = {(2, 2): BLACK, (29, 2): BLACK, (2, 61): WHITE, (29, 61): WHITE}  # a quarter to the right
DRAWN = {LEFT: BLACK, RIGHT: WHITE, BOTTOM: GRAY}  # 255 - 128, since black takes 128 parts of 255
RED_LEFT = {LEFT: RED, RIGHT: WHITE}
KINDS = {
    "rgb png": Kind(encoded(halves(RED, BLUE), "PNG"), SIDE, {LEFT: RED, RIGHT: BLUE}),
    "rgb bmp": Kind(encoded(halves(RED, BLUE), "BMP"), SIDE, {LEFT: RED, RIGHT: BLUE}),
    "rgb tiff": Kind(encoded(halves(RED, BLUE), "TIFF"), SIDE, {LEFT: RED, RIGHT: BLUE}),
    "gif": Kind(encoded(halves(RED, BLUE), "GIF"), SIDE, {LEFT: RED, RIGHT: BLUE}),
    "gray": Kind(
        encoded(halves(7, 200, "L"), "PNG"), SIDE, {LEFT: (7, 7, 7), RIGHT: (200, 200, 200)}
    ),
    "1 bit": Kind(encoded(halves(1, 0, "1"), "PNG"), SIDE, {LEFT: WHITE, RIGHT: BLACK}),
    "palette": Kind(encoded(palette(), "BMP"), SIDE, {LEFT: RED, RIGHT: BLACK}),
    "turned jpeg": Kind(oriented(WIDE, 6, "JPEG", quality=100), (32, 64), TURNED),
    "turned png": Kind(oriented(WIDE, 6), (32, 64), TURNED),
    "turned webp": Kind(oriented(WIDE, 6, "WEBP", lossless=True), (32, 64), TURNED),
    "turned tiff": Kind(oriented(WIDE, 6, "TIFF"), (32, 64), TURNED),
    "rgba png": Kind(encoded(drawing(), "PNG"), SIDE, DRAWN),
    "rgba webp": Kind(encoded(drawing(), "WEBP", lossless=True, exact=True), SIDE, DRAWN),
    "rgba tiff": Kind(encoded(drawing(), "TIFF"), SIDE, DRAWN),
    "la png": Kind(encoded(drawing("LA"), "PNG"), SIDE, DRAWN),
    "turned alpha": Kind(
        oriented(drawing(), 3), SIDE, {LEFT: GRAY, RIGHT: GRAY, (2, 13): WHITE, BOTTOM: BLACK}
    ),
    "palette with a transparent color": Kind(
        encoded(palette(), "PNG", transparency=0), SIDE, RED_LEFT
    ),
    "palette with alpha": Kind(
        encoded(palette(), "PNG", transparency=b"\x00\x80"),
        SIDE,
        {LEFT: (255, 127, 127), RIGHT: WHITE},
    ),
    "gif with a transparent color": Kind(encoded(palette(), "GIF", transparency=0), SIDE, RED_LEFT),
    "rgb with a transparent color": Kind(
        encoded(halves(RED, BLUE), "PNG", transparency=BLUE), SIDE, RED_LEFT
    ),
    "gray with a transparent level": Kind(
        encoded(halves(7, 9, "L"), "PNG", transparency=9), SIDE, {LEFT: (7, 7, 7), RIGHT: WHITE}
    ),
    # 32768 / 65535 x 255 = 127.5019; 257 x 7 is what 7 of 255 is in 16 bits
    "16 bits png": Kind(
        encoded(deep(np.uint16, 32768, 257 * 7), "PNG"),
        SIDE,
        {LEFT: (128, 128, 128), RIGHT: (7, 7, 7)},
    ),
    "16 bits tiff": Kind(
        encoded(deep(np.uint16, 65535, 0), "TIFF"), SIDE, {LEFT: WHITE, RIGHT: BLACK}
    ),
    "16 bits with a transparent level": Kind(
        png_of_16_bits(0, 4660, transparent=struct.pack(">H", 4660)),
        SIDE,
        {LEFT: WHITE, RIGHT: WHITE},
    ),
    "16 bits a color": Kind(png_of_16_bits(2, 65535, 32768, 0), SIDE, {LEFT: (255, 128, 0)}),
    "32 bits": Kind(
        encoded(deep(np.int32, 200, 0), "TIFF"), SIDE, {LEFT: (200, 200, 200), RIGHT: BLACK}
    ),
    # 51400 / 65535 x 255 = 200
    "32 bits of 16": Kind(
        encoded(deep(np.int32, 51400, 0), "TIFF"), SIDE, {LEFT: (200, 200, 200), RIGHT: BLACK}
    ),
    "floats to 1": Kind(
        encoded(deep(np.float32, 1.0, 0.2), "TIFF"), SIDE, {LEFT: WHITE, RIGHT: (51, 51, 51)}
    ),
    "floats to 255": Kind(
        encoded(deep(np.float32, 200.0, -3.0), "TIFF"), SIDE, {LEFT: (200,) * 3, RIGHT: BLACK}
    ),
    "cmyk tiff": Kind(
        encoded(halves((0, 255, 255, 0), (0, 0, 0, 255), "CMYK"), "TIFF"),
        SIDE,
        {LEFT: RED, RIGHT: BLACK},
    ),
    "cmyk jpeg of Adobe": Kind(
        encoded(Image.new("CMYK", SIDE, (255, 0, 0, 0)), "JPEG", quality=100),
        SIDE,
        {LEFT: (0, 255, 255)},
    ),
    "jpeg of a camera": Kind(
        encoded(WIDE, "MPO", save_all=True, append_images=[WIDE]),
        (64, 32),
        {LEFT: BLACK, (61, 2): WHITE},
    ),
}
