"""Fingerprints: one text in many spellings has one key, one picture in many files nearly one
hash.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bimode.inputs.pictures import PictureError
from bimode.storage.dataset import image_digest
from data_curation.dedup.fingerprints import (
    HASH_HEX,
    THUMB_BYTES,
    answer_key,
    canonical,
    content_key,
    perceptual_hash,
    question_key,
    thumbnails,
)


def picture(seed: int = 0, side: int = 40) -> Image.Image:
    """A smooth gray picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bits_apart(one: str, two: str) -> int:
    return (int(one, 16) ^ int(two, 16)).bit_count()


def test_one_text_in_many_spellings_is_one_text() -> None:
    assert canonical("  Wie\tGROSS\nist \uff15 Stra\u00dfe ?") == "wie gross ist 5 strasse ?"
    assert question_key("How  MANY?") == question_key("how many?") != question_key("how much?")
    assert canonical("\u200f\u05db\u05de\u05d4\u200e ?\ufeff") == canonical(
        "\u05db\u05de\u05d4 ?"
    ), "marks of direction"


def test_an_answer_loses_its_full_stop_and_nothing_inside() -> None:
    assert answer_key(" The  Cat. ") == answer_key("the cat !") == "the cat"
    assert answer_key("3.5") == "3.5" and answer_key("-3") == "-3" and answer_key("...") == ""


def test_content_is_question_and_pixels() -> None:
    one, two = (image_digest([png(picture(seed))]) for seed in (0, 1))
    assert content_key("How many?", one) == content_key("how  many?", one)
    assert (
        len(
            {
                content_key("how many?", one),
                content_key("how many?", two),
                content_key("how many?", ""),
            }
        )
        == 3
    )


def test_a_hash_has_256_bits_a_picture_and_none_without_pictures() -> None:
    one, two = picture(0), picture(1)
    assert perceptual_hash([]) == "" and thumbnails([]) == b""
    assert len(perceptual_hash([one])) == HASH_HEX == 64
    assert perceptual_hash([one, two]) == f"{perceptual_hash([one])}-{perceptual_hash([two])}"
    assert thumbnails([one, two]) == thumbnails([one]) + thumbnails([two])
    assert len(thumbnails([one])) == THUMB_BYTES == 400


def test_a_file_and_its_decoded_picture_have_the_same_fingerprints() -> None:
    image = picture()
    assert perceptual_hash([png(image)]) == perceptual_hash([image])
    assert thumbnails([png(image)]) == thumbnails([image])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_the_same_gray_in_another_mode_is_the_same(mode: str) -> None:
    assert perceptual_hash([picture().convert(mode)]) == perceptual_hash([picture()])
    assert thumbnails([picture().convert(mode)]) == thumbnails([picture()])


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_more_bits_of_gray_are_scaled_and_not_cut_off(kind: type) -> None:
    """Pillow's own conversion makes all above 255 white, and then all such pictures would be the
    same.
    """
    deep = Image.fromarray(np.asarray(picture()).astype(kind) * 200)
    assert bits_apart(perceptual_hash([deep]), perceptual_hash([picture()])) <= 24
    assert len(set(thumbnails([deep]))) > 50


def test_twice_the_size_changes_few_bits_and_another_picture_many() -> None:
    small = perceptual_hash([picture()])
    assert (
        bits_apart(small, perceptual_hash([picture().resize((80, 80), Image.Resampling.BICUBIC)]))
        <= 32
    )
    assert bits_apart(small, perceptual_hash([picture(1)])) > 60


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(PictureError, match="begins with b'no picture'"):
        perceptual_hash([b"no picture"])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_pictures_that_differ_in_their_palette_alone_are_two(kind: str) -> None:
    """Their pixels are numbers of colors: by these a red square and a blue one are the same."""

    def square(color: str, palette: bool) -> bytes:
        image, buffer = Image.new("RGB", (40, 40), "white"), io.BytesIO()
        image.paste(color, (10, 10, 30, 30))
        (image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2) if palette else image).save(
            buffer, kind if palette else "PNG"
        )
        return buffer.getvalue()

    assert image_digest([square("red", palette=True)]) != image_digest(
        [square("blue", palette=True)]
    )
    assert image_digest([square("red", palette=True)]) == image_digest(
        [square("red", palette=False)]
    )


def test_drawings_on_nothing_are_compared_by_what_they_show() -> None:
    """Below what is transparent all of them may be black, as an export of a formula or of a figure
    is.
    """

    def drawing(*box: int) -> Image.Image:
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), box)
        return image

    one, two = drawing(5, 5, 20, 20), drawing(20, 20, 38, 38)
    on_white = Image.new("RGB", (40, 40), "white")
    on_white.paste("black", (5, 5, 20, 20))
    assert (
        thumbnails([one]) == thumbnails([png(one)]) == thumbnails([on_white]) != thumbnails([two])
    )
    assert perceptual_hash([one]) == perceptual_hash([on_white]) != perceptual_hash([two])
