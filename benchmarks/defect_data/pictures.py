"""What happens to a picture on its way: other encodings of the same one, and files that are
none.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from benchmarks.defect_data.questions import HTML

BOMB_SIDE = 30_000
CHUNK = 1 << 20


def decode(data: bytes) -> Image.Image:
    """The picture in the file `data`, loaded."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def encode(picture: Image.Image, kind: str = "PNG", **options: int | bool) -> bytes:
    """`picture` as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def as_other_png(data: bytes, rng: np.random.Generator) -> bytes:
    """The same pixels in another file: uncompressed, best compressed, as colors or with a
    palette.
    """
    picture, way = decode(data), int(rng.integers(4))
    if way < 2:
        return encode(picture, compress_level=(0, 9)[way])
    return encode(picture.convert(("RGB", "P")[way - 2]))


def as_jpeg(data: bytes) -> bytes:
    """As JPEG of quality 70."""
    return encode(decode(data), "JPEG", quality=70)


def rescaled(data: bytes) -> bytes:
    """Twice as wide and high, bicubic."""
    picture = decode(data)
    return encode(picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC))


def brighter(data: bytes) -> bytes:
    """All gray values up by 8 of 255."""
    return encode(
        Image.fromarray(
            np.clip(np.asarray(decode(data), dtype=np.int16) + 8, 0, 255).astype(np.uint8)
        )
    )


def reencoded(data: bytes, rng: np.random.Generator) -> bytes:
    """One of the three above."""
    return (as_jpeg, rescaled, brighter)[int(rng.integers(3))](data)


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG or JPEG that ends in the midst of its pixels."""
    if rng.random() < 0.5:
        data = as_jpeg(data)
        start = data.index(b"\xff\xda") + 16  # behind the header of the scan
    else:
        start = data.index(b"IDAT") + 16
    return data[: start + int((len(data) - start) * rng.uniform(0.1, 0.7))]


def random_bytes(rng: np.random.Generator) -> bytes:
    """Noise, half of it behind the first bytes of a PNG."""
    head = b"\x89PNG\r\n\x1a\n" if rng.random() < 0.5 else b""
    return head + rng.bytes(int(rng.integers(20, 2000)))


def no_picture(rng: np.random.Generator) -> bytes:
    """What servers send instead of a picture: an HTML page, an error as JSON, a PDF."""
    number = str(rng.integers(10**9))
    pages = (
        HTML.format(number),
        f'{{"error": "rate limit exceeded", "request": {number}}}',
        f"%PDF-1.7\n1 0 obj\n{number}\nendobj",
    )
    return pages[int(rng.integers(len(pages)))].encode()


def odd_size(rng: np.random.Generator) -> bytes:
    """One pixel, a thread, or far too wide."""
    sides = ((1, 1), (3000, 2), (3, 900), (6000, 12), (20, 5000))
    width, height = sides[int(rng.integers(len(sides)))]
    return encode(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))


def bomb(rng: np.random.Generator) -> bytes:
    """A small file that wants gigabytes: a header that lies, a picture of 900 million pixels, a
    text that inflates to 64 MB.
    """
    return (lying_header, _huge_picture, _huge_text)[int(rng.integers(3))](int(rng.integers(10**9)))


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(side: int, bits: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def lying_header(mark: int) -> bytes:
    """30,000 x 30,000 pixels are told of, few bytes follow; `mark` makes files differ."""
    return _png(
        BOMB_SIDE, 8, chunk(b"tEXt", b"n\0%d" % mark), chunk(b"IDAT", zlib.compress(bytes(100)))
    )


def _huge_picture(mark: int) -> bytes:
    return _png(
        BOMB_SIDE,
        1,
        chunk(b"tEXt", b"n\0%d" % mark),
        chunk(b"IDAT", _zeros(BOMB_SIDE * (1 + BOMB_SIDE // 8))),
    )


def _huge_text(mark: int) -> bytes:
    pixels = chunk(b"IDAT", zlib.compress(bytes(40 * 41)))
    return _png(
        40,
        8,
        chunk(b"tEXt", b"n\0%d" % mark),
        chunk(b"zTXt", b"note\0\0" + _zeros(64 << 20)),
        pixels,
    )


@cache
def _zeros(count: int) -> bytes:
    """`count` zeros, deflated without ever holding them."""
    deflate = zlib.compressobj(9)
    parts = [deflate.compress(bytes(min(CHUNK, count - at))) for at in range(0, count, CHUNK)]
    return b"".join([*parts, deflate.flush()])
