"""One picture: curation, learners, rollout workers and pages see the pixels worked out by hand."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from actors.rollout.worker import RolloutWorker
from bimode.errors import ConfigError
from bimode.inputs.pictures import (
    MAX_SCANS,
    MAX_SIDE,
    PictureError,
    in_rgb,
    open_picture,
    picture_header,
)
from bimode.storage.dataset import image_digest, picture_digest, sample_row
from data_curation.checks.validate import check_rows
from data_curation.dedup.fingerprints import perceptual_hash, thumbnails
from data_curation.publishing.samples import picture
from data_curation.traces.quality import sharpness
from pipelines.report.page import _data_url
from tests.pictures import (
    BLACK,
    KINDS,
    RED,
    WHITE,
    WIDE,
    Kind,
    deep,
    drawing,
    encoded,
    halves,
    oriented,
    png_of_16_bits,
)
from tests.rows import SOUND, asked, reading_worker

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def plain(kind: Kind) -> Image.Image:
    """The picture as it should be seen, from a file that no decoder can differ about."""
    return Image.open(io.BytesIO(encoded(open_picture(kind.data), "PNG")))


@every_kind
def test_a_picture_has_the_pixels_that_were_worked_out(kind: Kind) -> None:
    shown = open_picture(kind.data)
    assert (shown.mode, shown.size, shown.info) == ("RGB", kind.size, {})
    assert {at: shown.getpixel(at) for at in kind.pixels} == kind.pixels


@pytest.mark.parametrize(
    ("number", "first", "second"),
    [
        (1, "top left", "top right"),
        (2, "top right", "top left"),
        (3, "bottom right", "bottom left"),
        (4, "bottom left", "bottom right"),
        (5, "top left", "bottom left"),
        (6, "top right", "bottom right"),
        (7, "bottom right", "top right"),
        (8, "bottom left", "top left"),
        (0, "top left", "top right"),
        (9, "top left", "top right"),
    ],
)
def test_each_orientation_is_applied(number: int, first: str, second: str) -> None:
    """EXIF says on which side row 0 and column 0 are to be shown: of 6 on the right and on top.

    A number that there is not turns nothing.
    """
    stored = Image.new("RGB", (24, 16), WHITE)
    stored.paste(RED, (0, 0, 8, 8))
    stored.paste(BLACK, (16, 0, 24, 8))
    shown = open_picture(oriented(stored, number))
    right, bottom = shown.width - 1, shown.height - 1
    corners = {
        "top left": (0, 0),
        "top right": (right, 0),
        "bottom left": (0, bottom),
        "bottom right": (right, bottom),
    }
    found = {name: shown.getpixel(at) for name, at in corners.items()}
    assert found == {
        name: RED if name == first else BLACK if name == second else WHITE for name in corners
    }


def test_orientation_that_cannot_be_read_turns_nothing() -> None:
    profile = PngInfo()
    profile.add_text("Raw profile type exif", "\nexif\n 4\nno digits")
    number_as_text = bytearray(oriented(WIDE, 6, "JPEG", quality=100))
    number_as_text[number_as_text.index(b"\x01\x12\0\x03") + 3] = 1
    for data in (
        encoded(WIDE, "JPEG", quality=100, exif=b"Exif\0\0no directory at all"),
        encoded(WIDE, "PNG", pnginfo=profile),
        bytes(number_as_text),
    ):
        shown = open_picture(data)
        assert shown.size == (64, 32) and shown.getpixel((2, 2)) == BLACK


def row(data: bytes) -> dict[str, Any]:
    return sample_row(replace(SOUND, images=(data,)), "train")


@every_kind
def test_curation_sees_it(kind: Kind) -> None:
    """Its digest, hash and thumbnail are those of the plain picture, and so is what pages show."""
    same = plain(kind)
    [checked] = check_rows([row(kind.data)])
    assert (checked.reason, checked.image_sha256) == ("", picture_digest([same]))
    assert checked.image_sha256 == image_digest([kind.data])
    assert (checked.phash, checked.thumbnails) == (perceptual_hash([same]), thumbnails([same]))
    assert sharpness([kind.data]) == sharpness([encoded(same, "PNG")])
    for url in (picture(kind.data).uri, _data_url(kind.data)):
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as scored:
            assert np.array_equal(np.asarray(scored.convert("RGB")), np.asarray(same))


@pytest.fixture(scope="module")
def worker(tiny_llava: Path) -> RolloutWorker:
    return reading_worker(tiny_llava, 256)


@every_kind
def test_learner_and_rollout_worker_see_it(kind: Kind, worker: RolloutWorker) -> None:
    same = plain(kind)
    [(_, pixels)] = worker.renderer.encode_images([kind.data])
    [(_, wanted)] = worker.renderer.encode_images([encoded(same, "PNG")])
    assert pixels.equal(wanted)
    [sent] = worker._encode(asked("what is it ?", kind.data).prompt).images
    assert sent.mode == "RGB" and np.array_equal(np.asarray(sent), np.asarray(same))


def animated(kind: str) -> bytes:
    return encoded(halves(RED, BLACK), kind, save_all=True, append_images=[halves(BLACK, RED)])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
REFUSED = {
    "nothing": (b"", "image_missing", "no bytes"),
    "postscript": (EPS, "image_type", "begins with b'%!PS"),
    "ppm": (encoded(halves(RED, BLACK), "PPM"), "image_type", "begins with b'P6"),
    "jpeg 2000": (encoded(halves(RED, BLACK), "JPEG2000"), "image_type", "begins with"),
    "animated gif": (animated("GIF"), "image_type", "a GIF of several frames"),
    "animated webp": (animated("WEBP"), "image_type", "a WEBP of several frames"),
    "animated png": (animated("PNG"), "image_type", "a PNG of several frames"),
    "pages": (animated("TIFF"), "image_type", "a TIFF of several frames"),
    "small": (encoded(Image.new("L", (7, 99)), "PNG"), "image_size", "7 x 99 pixels"),
    "wide": (encoded(Image.new("1", (MAX_SIDE + 1, 9)), "PNG"), "image_size", "4097 x 9 pixels"),
    "cut": (encoded(WIDE, "JPEG")[:300], "image_truncated", "JPEG: "),
    "transparent color of 16 bits": (
        png_of_16_bits(2, 65535, 32768, 0, transparent=b"\xff\xff\x80\0\0\0"),
        "image_type",
        "a PNG of 16 bits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_single_picture_is_refused_everywhere(name: str, worker: RolloutWorker) -> None:
    data, reason, detail = REFUSED[name]
    with pytest.raises(PictureError) as refused:
        open_picture(data)
    assert refused.value.reason == reason and detail in refused.value.detail
    [checked] = check_rows([row(data)])
    assert checked.reason == reason and checked.detail == f"image 0: {refused.value.detail}"
    worker.begin(0, [asked("what is it ?", data)])
    [result] = worker.advance(0.0)[0]
    assert result.refused == refused.value.detail and not result.completions
    with pytest.raises(ConfigError, match=f"image = {reason}"):
        worker.renderer.encode_images([data])
    assert _data_url(data) == "data:," and picture(data).note == refused.value.detail


def test_no_decoder_of_a_foreign_language_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, by whatever way it comes to it."""
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript ran")
    )
    for attempt in (open_picture, picture_header, lambda data: sharpness([data])):
        with pytest.raises(PictureError):
            attempt(EPS)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each scan is decoded over all pixels: 144 kB take a minute. An honest file has ten or so."""
    honest = encoded(WIDE.resize((256, 128)), "JPEG", progressive=True)
    last = honest.rindex(b"\xff\xda")
    assert 1 < honest.count(b"\xff\xda") < 20 and open_picture(honest).size == (256, 128)
    scans = honest[last:-2] * MAX_SCANS
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PictureError, match=r"a JPEG with [56]\d scans"):
        open_picture(honest[:-2] + scans + honest[-2:])


def test_equal_pixels_of_another_file_are_one_picture() -> None:
    """A gray picture is the same in color, and a drawing on nothing the same as on white."""
    gray = halves(7, 200, "L")
    assert image_digest([encoded(gray, "PNG")]) == image_digest(
        [encoded(gray.convert("RGB"), "BMP")]
    )
    on_white = in_rgb(drawing())
    assert image_digest([encoded(drawing("LA"), "PNG")]) == image_digest([encoded(on_white, "PNG")])
    half = encoded(deep(np.uint16, 257 * 90, 0), "PNG")
    assert image_digest([half]) == image_digest([encoded(halves(90, 0, "L"), "PNG")])
    assert image_digest([half]) != image_digest([encoded(halves(91, 0, "L"), "PNG")])
