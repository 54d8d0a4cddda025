"""Near pictures: copies by an encoder are, another digit, bar, hand or noise is not; arithmetic
against the plain formula.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_curation.dedup.fingerprints import perceptual_hash, thumbnails
from data_curation.dedup.near_images import BLOCK, KeptPictures, Pictures, join, near, near_each
from data_curation.demo import Family, arithmetic, canvas, charts, digits

RADIUS = 32
FAMILIES: dict[str, Family] = {
    "digits": digits.digit_strip,
    "charts": charts.bar_chart,
    "arithmetic": arithmetic.expression,
}
EASY, HARD = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70)
    return Image.open(io.BytesIO(buffer.getvalue()))


def doubled(picture: Image.Image) -> Image.Image:
    return picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)


def brighter(picture: Image.Image) -> Image.Image:
    return picture.point(lambda value: min(value + 8, 255))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "doubled": doubled,
    "brighter": brighter,
    "both": lambda picture: jpeg(doubled(picture)),
    "contrast": lambda picture: picture.point(lambda value: int(0.85 * value)),
    "color": lambda picture: picture.convert("RGB"),
}


@cache
def sampled(
    family: str, weights: tuple[float, float, float], count: int = 40
) -> tuple[Image.Image, ...]:
    samples = [FAMILIES[family](index, "train", 0, weights) for index in range(count)]
    return tuple(Image.open(io.BytesIO(sample.images[0])) for sample in samples)


def of(pictures: tuple[Image.Image, ...] | list[Image.Image]) -> Pictures:
    hashes = [bytes.fromhex(perceptual_hash([picture])) for picture in pictures]
    return Pictures.of(hashes, [thumbnails([picture]) for picture in pictures], 1)


def with_cell(
    picture: Image.Image, ink: np.ndarray, column: slice, row: slice, seed: int
) -> Image.Image:
    """`picture` with other ink in one place, as bright and noisy as the families draw."""
    rng = np.random.default_rng(seed)
    pixels = np.array(picture)
    noisy = ink * rng.uniform(0.75, 1.0) + rng.normal(0.0, 0.03, ink.shape)
    pixels[row, column] = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("weights", [EASY, HARD], ids=["plain", "full"])
def test_a_copy_is_near(family: str, copy: str, weights: tuple[float, float, float]) -> None:
    """Plain pictures are the hard ones: JPEG flips up to 36 bits of a single bar, mostly bits of
    its noise.
    """
    originals = sampled(family, weights)
    copies = of([COPIES[copy](picture) for picture in originals])
    found = near_each(of(originals), copies, RADIUS)
    assert found.sum() >= len(originals) - (copy == "jpeg")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [EASY, HARD], ids=["plain", "full"])
def test_pictures_that_were_drawn_apart_are_not_near(
    family: str, weights: tuple[float, float, float]
) -> None:
    """Among the plain ones are bars of one height and the same glyph twice: noise alone tells them
    apart.
    """
    pictures = of(sampled(family, weights))
    assert near(pictures, pictures, 64).sum() == len(pictures)  # each is near itself


def test_another_glyph_of_any_digit_is_another_picture() -> None:
    """A strip with one cell drawn anew, by another digit and by the same digit in another hand."""
    strips = sampled("digits", HARD)
    rng, cell = np.random.default_rng(1), slice(0, canvas.CELL)
    for digit in range(10):
        changed = [
            with_cell(s, digits.draw_glyph(rng, "train", digit)[0], cell, cell, k)
            for k, s in enumerate(strips)
        ]
        assert not near_each(of(strips), of(changed), 64).any()


def test_a_bar_that_is_one_tick_higher_is_another_picture() -> None:
    column, row = slice(canvas.CELL, 2 * canvas.CELL), slice(0, canvas.SIDE - 3)
    bars = []
    for tick in range(1, 10):
        ink = np.zeros((canvas.SIDE - 3, canvas.CELL))
        ink[canvas.SIDE - 4 - tick * charts.TICK_PIXELS : canvas.SIDE - 4, 1:7] = 0.9
        bars.append(
            of([with_cell(chart, ink, column, row, tick) for chart in sampled("charts", HARD)])
        )
    for lower, higher in pairwise(bars):
        assert not near_each(lower, higher, 64).any()


def test_flat_pictures_are_told_apart_by_their_light() -> None:
    flat = of([Image.new("L", (30, 30), value) for value in (1, 3, 128, 255)])
    assert near(flat, flat, 0).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_a_negative_is_another_picture_though_its_hash_is_256_bits_away() -> None:
    """256 does not fit into the byte in which bits are counted."""
    rng = np.random.default_rng(0)
    thumb = rng.integers(0, 256, 400, dtype=np.uint8).tobytes()
    one, two = Pictures.of([bytes(32)], [thumb], 1), Pictures.of([b"\xff" * 32], [thumb], 1)
    assert not near(one, two, 64).any() and not near_each(one, two, 64).any()
    assert near(one, one, 0).all()


def test_every_picture_of_a_row_has_to_be_near() -> None:
    a, b, c = sampled("digits", HARD)[:3]
    rows = [(a, b), (jpeg(a), jpeg(b)), (a, c), (b, a)]
    hashes = [bytes.fromhex(perceptual_hash(row).replace("-", "")) for row in rows]
    pictures = Pictures.of(hashes, [thumbnails(row) for row in rows], 2)
    assert near(pictures, pictures, RADIUS)[0].tolist() == [True, True, False, False]


def fake(points: list[int], seed: int = 0) -> Pictures:
    """Pictures on a line: `k` and `k + 1` are 8 bits and 1.3 gray levels apart, `k` and `k + 2`
    twice and 1.8 times that.
    """
    rng = np.random.default_rng(seed)
    start, steps = rng.integers(60, 200, 400), rng.permutation(400)
    hashes, thumbs = [], []
    for k in points:
        gray = start.copy()
        gray[steps[: 40 * k]] += np.where(np.arange(40 * k) % 2, 4, -4)
        thumbs.append(gray.astype(np.uint8).tobytes())
        hashes.append(np.packbits(np.arange(256) < 8 * k).tobytes())
    return Pictures.of(hashes, thumbs, 1)


def test_who_is_out_removes_nobody() -> None:
    """0 - 1 - 2 in a line: 1 goes for 0, and 2, which only 1 is near, stays."""
    kept, ranks = KeptPictures(8), np.array([10, 11, 12, 13])
    assert kept.place(ranks, fake([0, 1, 2, 1]), np.zeros(4, bool)).tolist() == [-1, 10, -1, 10]
    assert kept.place(np.array([20]), fake([3]), np.zeros(1, bool)).tolist() == [12]


def test_fixed_rows_stay_and_remove_others() -> None:
    kept, fixed = KeptPictures(8), np.array([False, True, False])
    assert kept.place(np.arange(3), fake([0, 0, 1]), fixed).tolist() == [-1, -1, 0]
    assert kept.place(np.arange(3, 5), fake([1, 2]), np.array([True, False])).tolist() == [-1, 3]


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([0, 8, 16]),
)
def test_the_greedy_choice_is_that_of_comparing_one_by_one(
    points: list[int], cut: int, radius: int
) -> None:
    pictures, kept, expected = fake(points), KeptPictures(radius), list[int]()
    close = near(pictures, pictures, radius)
    for i in range(len(points)):
        stays = [j for j in range(i) if expected[j] < 0 and close[i, j]]
        expected.append(stays[0] if stays else -1)
    got: list[int] = []
    for at in range(0, len(points), cut):
        ranks = np.arange(at, min(at + cut, len(points)))
        got += kept.place(ranks, pictures.take(ranks), np.zeros(len(ranks), bool)).tolist()
    assert got == expected
    rows, hits = kept.all_near(pictures)
    stay = [i for i, first in enumerate(expected) if first < 0]
    assert sorted(zip(rows.tolist(), hits.tolist(), strict=True)) == sorted(
        (i, j) for j in stay for i in np.flatnonzero(close[:, j])
    )


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 2, 6, 40]),
    st.integers(-60, 60),
    st.sampled_from([0.5, 1.0, 1.2]),
)
def test_the_difference_is_that_of_the_formula(
    seed: int, noise: int, light: int, contrast: float
) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(70, 180, 400).astype(float)
    two = np.clip(
        (one - 125) * contrast + 125 + light + rng.integers(-noise, noise + 1, 400), 0, 255
    ).astype(np.uint8)
    means, stds = (one.mean(), two.mean()), (max(one.std(), 1), max(two.std(), 1))
    scaled = (one - means[0]) / stds[0] - (two - means[1]) / stds[1]
    apart = max(stds) * np.sqrt((scaled**2).mean())
    a, b = (
        Pictures.of([bytes(32)], [np.asarray(t).astype(np.uint8).tobytes()], 1) for t in (one, two)
    )
    if abs(apart - 1.8) > 1e-6:
        assert (
            near(a, b, 0)[0, 0]
            == near_each(a, b, 0)[0]
            == (apart <= 1.8 and abs(means[0] - means[1]) <= 48)
        )


def test_more_rows_than_a_block_are_placed_alike() -> None:
    """The same row before and behind the border of a block, and of a part that is kept."""
    rng = np.random.default_rng(0)
    count = 2 * BLOCK + 10
    many = Pictures.of(
        [rng.bytes(32) for _ in range(count)], [rng.bytes(400) for _ in range(count)], 1
    )
    kept = KeptPictures(RADIUS)
    first = kept.place(np.arange(2 * count), join([many, many]), np.zeros(2 * count, bool))
    assert np.array_equal(first, [-1] * count + list(range(count)))
