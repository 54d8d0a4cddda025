"""The built-in families: deterministic, honest about their sources, and hard only through the
picture.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from bimode.inputs.pictures import open_picture
from data_curation.demo import FAMILIES, arithmetic, canvas, charts, digits
from data_curation.demo.arithmetic import arithmetic_trace
from data_curation.demo.charts import SPLIT_DATASETS, chart_trace, ninth, series
from data_curation.demo.digits import SPLIT_SHARES, glyph_indices, strip_trace

EVEN = (1.0, 1.0, 1.0)
IMAGE_FAMILIES = ("digits", "charts", "arithmetic")


@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_equal_arguments_give_equal_samples_and_other_seeds_others(name: str) -> None:
    family = FAMILIES[name]
    assert family(3, "train", 0, EVEN) == family(3, "train", 0, EVEN)
    assert family(3, "train", 0, EVEN).images != family(3, "train", 1, EVEN).images


@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_one_canvas_for_all_and_the_wording_never_tells_the_level(name: str) -> None:
    samples = [FAMILIES[name](i, "train", 0, EVEN) for i in range(120)]
    assert {open_picture(s.images[0]).size for s in samples} == {(canvas.SIDE, canvas.SIDE)}
    words = {level: {s.question for s in samples if s.level == level} for level in canvas.LEVELS}
    assert words["easy"] == words["mid"] == words["hard"]
    assert all(json.loads(s.difficulty)["operands"] in canvas.LEVELS[s.level] for s in samples)


def test_splits_share_no_glyph_and_no_series() -> None:
    glyphs = [{i for digit in glyph_indices(split) for i in digit} for split in SPLIT_SHARES]
    assert sum(map(len, glyphs)) == len(set.union(*glyphs)) == 1797
    names = [ref for split in SPLIT_DATASETS for ref, _ in series(split)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_source_references_stay_inside_the_split(name: str) -> None:
    train = {ref for i in range(150) for ref in FAMILIES[name](i, "train", 0, EVEN).source_refs}
    held_out = {ref for i in range(150) for ref in FAMILIES[name](i, "eval", 0, EVEN).source_refs}
    assert train and held_out and not train & held_out


def test_traces_end_in_the_answer_worked_out_by_hand() -> None:
    assert strip_trace([3, 8, 1])[1] == 381 % 23 == 13
    assert chart_trace([4, 7, 7, 2])[1] == (4 * 7 + 7) * 2 % 23 == 1
    assert arithmetic_trace([8, 9, 3], ["-", "x"]) == (
        "look : 3 terms : 8 - 9 x 3 ; then 8 - 9 > 22 x 3 > 20 ; so 20",
        ((8 - 9) * 3) % 23,
    )


def test_bar_heights_are_ranks_within_the_series() -> None:
    values = np.arange(90.0)
    assert [ninth(values, row) for row in (0, 9, 10, 45, 89)] == [1, 1, 2, 5, 9]
    assert ninth(np.ones(5), 0) == 5


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_a_blind_answer_is_right_as_often_as_stated(
    name: str, weights: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "to_png", lambda image, rng: b"")  # answers alone: half the time
    made = [FAMILIES[name](i, "train", 0, weights) for i in range(1500)]
    answers = [s.answer for s in made]
    best = max(answers.count(a) for a in set(answers)) / len(answers)
    # 3 standard errors, and a height is not quite as likely as another
    assert best == pytest.approx(made[0].guess_rate, abs=0.025)


def test_guess_rates_by_hand() -> None:
    assert canvas.sampled_blind([1, "a", 1, 2]) == 0.5
    # One digit is one of ten; of 00 to 99 five have remainder 0; of 81 products seven are 12.
    assert digits.guess_rate("easy") == pytest.approx(0.1) and digits.guess_rate(
        "mid"
    ) == pytest.approx(0.05)
    assert charts.guess_rate("mid") == pytest.approx(7 / 81)
    assert charts.guess_rate("easy") == arithmetic.guess_rate("easy") == pytest.approx(1 / 9)
