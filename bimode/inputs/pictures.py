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
Nothing stops a decode, so what it may cost is bounded before (`bimode/inputs/picture_parts.py`):
about a second for the worst that is accepted.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from bimode.errors import RefusedPromptError
from bimode.inputs.picture_parts import excess

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
    kind = _kind_of(data)
    try:
        picture = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise _refusal("image_size", "too many pixels to decode") from None
    except UNDECODABLE as error:
        raise _refusal("image_broken", f"{kind}: {_why(error)}") from None
    return kind, picture.width, picture.height


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
