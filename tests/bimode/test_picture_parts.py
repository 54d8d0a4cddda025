"""Pictures whose file makes a decoder work for seconds or minutes are refused before it starts."""

from __future__ import annotations

import ast
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from bimode.inputs.pictures import (
    FORMATS,
    MAX_PARTS,
    MAX_PIECES,
    MAX_RUNS,
    MAX_SCANS,
    MAX_TILE,
    MAX_WEBP,
    PictureError,
    excess,
    open_picture,
    picture_header,
)
from tests.pictures import encoded

ROOT = Path(__file__).resolve().parents[2]
GRAY = Image.new("L", (64, 64), 100)
PNG, JPEG, GIF = encoded(GRAY, "PNG"), encoded(GRAY, "JPEG"), encoded(GRAY, "GIF")
Tag = tuple[int, int, int, int]  # number, type, count, value


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(chunks: bytes, before: bytes = b"IDAT") -> bytes:
    at = PNG.index(before) - 4
    return PNG[:at] + chunks + PNG[at:]


def jpeg(segments: bytes) -> bytes:
    return JPEG[:2] + segments + JPEG[2:]


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + struct.pack(">BH", marker, len(data) + 2) + data


def gif(blocks: bytes) -> bytes:
    at = 13 + (3 << (GIF[10] & 7) + 1)  # behind the table of colors
    assert GIF[at] in b"!,"
    return GIF[:at] + blocks + GIF[at:]


def tiff(tags: Iterable[Tag], data: bytes = b"\x64" * 4096) -> bytes:
    """64 x 64 gray pixels, which begin behind the tags; `tags` replace those that are needed."""
    entries = {
        256: (256, 4, 1, 64),
        257: (257, 4, 1, 64),
        258: (258, 3, 1, 8),
        259: (259, 3, 1, 1),
        262: (262, 3, 1, 1),
        273: (273, 4, 1, 0),
        277: (277, 3, 1, 1),
        278: (278, 4, 1, 64),
        279: (279, 4, 1, 4096),
    } | {tag[0]: tag for tag in tags}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = (*entries[273][:3], entries[273][3] or start)
    packed = [struct.pack("<HHII", *entries[tag]) for tag in sorted(entries)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4) + data


def bmp_of_runs(runs: bytes, size: int = 64) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, size, size, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return (
        b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + bytes(1024) + runs
    )


def arithmetic(frame: int) -> bytes:
    """A JPEG of 64 x 64 pixels whose only scan has no bytes: its decoder reads zeros for ever."""
    sizes = struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0"
    scan = segment(0xDA, b"\1\1\0\0\x3f\0")
    tables = segment(0xDB, bytes(1) + b"\1" * 64)
    return b"\xff\xd8" + tables + segment(frame, sizes) + scan + b"\xff\xd9"


EXIF = segment(0xE1, b"Exif\0\0" + bytes(20))
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))
BOMBS = {  # seconds without a bound, of 16 MB of the same
    "png chunks": png(chunk(b"teSt") * (MAX_PARTS + 1)),  # 3.7
    "png chunks behind": png(chunk(b"teSt") * (MAX_PARTS + 1), before=b"IEND"),  # 2.9
    "png profiles": png(PROFILE * (MAX_PARTS + 1)),  # 12.5
    "png pieces": png(chunk(b"IDAT") * (MAX_PIECES + 1)),  # 1.2
    "jpeg comments": jpeg(segment(0xFE, b"") * (MAX_PARTS + 1)),  # 3.8
    "jpeg exif": jpeg(EXIF * (MAX_PARTS + 1)),  # 50.6
    "jpeg fill bytes": jpeg(b"\xff" * (MAX_PARTS + 1)),  # 8.5
    "jpeg junk": jpeg(EXIF + b"x" * MAX_PARTS),
    "jpeg lone markers": jpeg(b"\xff\xd0" * (MAX_PARTS + 1)),
    "jpeg arithmetic": arithmetic(0xC9),
    "jpeg arithmetic, progressive": arithmetic(0xCA),
    "gif comments": gif(b"!\xfe\1a\0" * (MAX_PARTS + 1)),  # 1.6
    "gif junk": gif(b"x" * (MAX_PARTS + 1)),
    "gif tiny blocks": gif(b"!\xfe" + b"\1a" * (MAX_PIECES + 1) + b"\0"),  # 2.0
    "tiff strips": tiff([(273, 4, MAX_PIECES + 1, 200), (278, 4, 1, 1)]),  # 11.0
    "tiff strips of bytes": tiff([(273, 1, MAX_PIECES + 1, 200), (278, 4, 1, 1)]),
    "tiff large tile": tiff([(322, 4, 1, MAX_TILE + 1), (323, 4, 1, 16), (324, 4, 1, 200)]),  # 1 GB
    "tiff jpeg, arithmetic": tiff([(259, 3, 1, 7)], arithmetic(0xC9)),
    "bmp runs": bmp_of_runs(b"\1\0" * (MAX_RUNS // 2)),  # 4.3
    "webp bytes": encoded(Image.new("RGB", (64, 64)), "WEBP").ljust(MAX_WEBP + 1, b"\0"),  # 1.2
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_a_decoder_sees_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened"))
    for look in (open_picture, picture_header):
        with pytest.raises(PictureError) as refused:
            look(BOMBS[name])
        assert refused.value.reason == "image_size" and len(str(refused.value)) < 200


def wide_png(pieces: int) -> bytes:
    data = zlib.compress(bytes(65) * 64, 0)
    cut = [data[at : at + 1] for at in range(pieces - 1)] + [data[pieces - 1 :]]
    start, end = PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4
    return PNG[:start] + b"".join(chunk(b"IDAT", piece) for piece in cut) + PNG[end:]


SOUND = {
    "png": png(chunk(b"teSt") * (MAX_PARTS - 2)),  # and IHDR and IEND
    "png in small pieces": wide_png(4000),
    "jpeg": jpeg(segment(0xFE, b"a") * (MAX_PARTS - JPEG.count(b"\xff") - 5)),
    "gif": gif(b"!\xfe\1a\0" * (MAX_PARTS - 9)),
    "gif, one long comment": gif(b"!\xfe" + b"\1a" * (MAX_PIECES - 99) + b"\0"),
    "tiff": tiff([]),
    "tiff of rows": tiff(
        [(273, 4, 64, 206), (278, 4, 1, 1), (279, 4, 64, 206)], b"\x40\0\0\0" * 1100
    ),
    "bmp runs": bmp_of_runs(b"\x40\0\0\0" * 64 + b"\0\1"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_just_within_the_bounds_is_opened(name: str) -> None:
    assert open_picture(SOUND[name]).size == (64, 64)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_ends_anywhere_is_counted_to_its_end(kind: str) -> None:
    """The walk through a file's parts believes no length, so it neither fails nor loops."""
    data = encoded(GRAY.convert("RGB"), kind)
    assert excess(kind, data) == ""
    for end in range(len(data)):
        excess(kind, data[:end])
        excess(kind, data[:end] + b"\xff\0\xff" + data[end + 3 :])


def test_the_largest_accepted_jpeg_is_decoded_in_seconds() -> None:
    """0.8 s on a quiet machine; 4.3 s with 300 scans, and a minute in 144 kB."""
    data = encoded(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * (MAX_SCANS - data.count(b"\xff\xda")) + data[-2:]
    start = time.process_time()
    assert open_picture(bomb).size == (4096, 4096)
    assert time.process_time() - start < 4


def test_no_other_module_opens_pictures() -> None:
    """One that called Pillow by itself would have none of the bounds."""
    files = [
        file
        for package in ("bimode", "data_curation", "actors", "cluster", "pipelines")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "pictures.py"
    ]
    assert len(files) > 100
    readers = {"open", "ImageFile"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("PIL"):
                assert not readers & {name.name for name in node.names}, file
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "Image",
                "PIL.Image",
            ):
                assert node.attr not in readers, file
