"""AL-CoTD's scores and penalty, against numbers by hand."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from data_curation.traces.quality import (
    Array,
    integration_score,
    min_max,
    pixels,
    repetition_penalty,
    sharpness,
    text_score,
    vision_scores,
)


def png(gray: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(gray.astype(np.uint8), mode="L").save(out, "PNG")
    return out.getvalue()


def arr(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def test_the_variance_of_the_laplacian_is_that_of_the_four_neighbors() -> None:
    gray = np.zeros((8, 8))
    gray[1, 1] = 10
    # of 36 inner pixels one has -40, its two inner neighbors 10: the mean is -20 / 36, that of
    # squares 1800 / 36
    variance = 50 - (20 / 36) ** 2
    assert sharpness([png(gray)]) == pytest.approx(variance)
    assert sharpness([png(gray), png(np.zeros((9, 9)))]) == pytest.approx(variance / 2)
    assert sharpness([png(np.full((8, 9), 7))]) == 0.0 == sharpness([])
    assert pixels([png(gray), png(np.zeros((9, 9)))]) == 64 + 81


def test_a_blurred_copy_is_less_sharp() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64))
    blurred = Image.fromarray(noise.astype(np.uint8), mode="L").filter(ImageFilter.GaussianBlur(2))
    assert sharpness([png(np.asarray(blurred))]) < 0.1 * sharpness([png(noise)])


def test_text_and_integration_scores_count_what_they_say() -> None:
    question = (  # 9 words, 3 numbers, clauses: "if" and the comma
        "If 3 pens cost 4.50, what do 7 cost?"
    )
    assert text_score(question) == pytest.approx(math.log(10) + math.log(4) + math.log(3))
    assert text_score("") == 0.0
    assert (
        integration_score("Why is the angle between the two bars so large?") == 3.0
    )  # why, angle, between
    assert integration_score("What color is it?") == -1.0
    assert integration_score("what is the remainder by 23 ?") == 0.0  # one of each kind


def test_min_max_leaves_unknown_values_out_and_shortens_nothing_without_a_spread() -> None:
    assert min_max(arr(2, 6, 4)).tolist() == [0.0, 1.0, 0.5]
    np.testing.assert_array_equal(min_max(arr(2, np.nan, 4)), arr(0, np.nan, 1))
    np.testing.assert_array_equal(min_max(arr(3, np.nan, 3)), arr(1, np.nan, 1))
    assert len(min_max(arr())) == 0


def test_vision_scores_by_hand() -> None:
    """log(1 + x) of 0, e - 1 and e^2 - 1 is 0, 1, 2; rows without pixels have no score."""
    sharp, size = arr(0, math.e - 1, math.e**2 - 1, 99), arr(math.e - 1, math.e - 1, math.e - 1, 0)
    # clarity: (0, .5, 1) and (1, 1, 1) -> .5, .75, 1; necessity unknown, -0.2, 0.5 -> 1, 0, .5;
    # sums halved: .75, .375, .75
    found = vision_scores(sharp, size, arr(np.nan, -0.2, 0.5, np.nan))
    np.testing.assert_allclose(found, arr(1, 0, 1, np.nan))


def test_the_penalty_by_hand() -> None:
    """alpha = ln 2 makes P = 2 ** (1 - quality)."""
    vision, text, integration = arr(1, 0, 0.5, 1), arr(1, 0, 0.5, 0), arr(1, 0, 0.5, 0)
    found = repetition_penalty(vision, text, integration, math.log(2), 1.0, 2.0)
    np.testing.assert_allclose(found, [1.0, 2.0, 2**0.5, 2**0.75])  # the last: (1 + 0 + 0) / 4
    assert repetition_penalty(arr(0), arr(0), arr(0), 5.0, 1.0, 1.0).tolist() == [2.0], (
        "never above 2"
    )
    assert repetition_penalty(arr(0), arr(0), arr(0), 0.0, 1.0, 1.0).tolist() == [1.0], (
        "alpha 0 is none"
    )
    # without an image the other two are weighed alone: (1 * 1 + 3 * 0) / 4
    np.testing.assert_allclose(
        repetition_penalty(arr(np.nan), arr(1), arr(0), math.log(2), 1.0, 3.0), [2**0.75]
    )
    assert repetition_penalty(arr(np.nan), arr(0), arr(0), 1.0, 0.0, 0.0).tolist() == [1.0], (
        "nothing known, nothing shortened"
    )


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8),
    st.floats(0, 3),
    st.floats(0, 3),
    st.floats(0, 3),
)
def test_the_penalty_lies_in_its_range_and_falls_with_every_score(
    scores: list[tuple[float, float, float]], alpha: float, beta: float, gamma: float
) -> None:
    columns = np.array(scores, dtype=np.float64).T
    penalty = repetition_penalty(*columns, alpha, beta, gamma)
    assert ((penalty >= 1.0 - 1e-9) & (penalty <= 2.0)).all()
    for k in range(3):
        better = columns.copy()
        better[k] = 1.0
        assert (repetition_penalty(*better, alpha, beta, gamma) <= penalty + 1e-12).all()
