"""Planted defects: the generator plants what its table says, and the scoring counts by hand what
stages did with it.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.defect_data import damage, pictures, problems, variants
from benchmarks.defect_data.files import COLUMNS, read_truth, write, write_recipe
from benchmarks.defect_data.kinds import counts
from benchmarks.defect_data.plant import IMAGE_FAMILIES, OF, Planter, family
from benchmarks.defect_data.record import Record, from_problem, from_sample
from bimode.config.recipe import Recipe

ROWS = 180


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return Planter(ROWS, 3).records()


def hard(task: str, index: int = 1) -> Record:
    return from_sample(family(task)(index, "train", 0, (0.0, 0.0, 1.0)), "row-000001")


def test_equal_seeds_plant_equal_rows(records: list[Record]) -> None:
    assert Planter(ROWS, 3).records() == records
    assert Planter(ROWS, 4).records() != records


def test_as_many_are_planted_as_the_table_says(records: list[Record]) -> None:
    """Evaluation items come on top of the rows and are sound."""
    flowing = Counter(record.kind for record in records if record.shard < 10)
    assert flowing == counts(ROWS) and flowing.total() == ROWS
    assert {record.kind for record in records if record.shard >= 10} == {"sound"}
    assert len({record.key for record in records}) == len(records)


def test_a_quarter_is_planted_of_20000_rows_and_too_few_rows_are_refused() -> None:
    planned = counts(20_000)
    assert planned["copy_jpeg"] == 200 and 0.2 < 1 - planned["sound"] / 20_000 < 0.3
    with pytest.raises(ValueError, match="too few"):
        counts(90)


def test_sound_rows_show_different_things(records: list[Record]) -> None:
    """Otherwise a stage that finds a natural copy would be called wrong."""
    shown = [(r.task, r.shown or r.question) for r in records if r.kind == "sound"]
    assert len(set(shown)) == len(shown)


def test_copies_lie_where_they_should(records: list[Record]) -> None:
    by_key = {record.key: record for record in records}
    for record in records:
        if record.kind.startswith("copy"):
            original = by_key[record.same]
            assert original.kind == "sound" and (record.shard == original.shard) == (
                record.kind == "copy_same_file"
            )
            assert record.answer == original.answer
        if record.kind.startswith("leak"):
            assert by_key[record.same].shard >= 10 > record.shard


def test_every_kind_but_the_damages_is_made_of_another_row(records: list[Record]) -> None:
    assert {record.kind for record in records if record.same} == set(OF)


def test_files_hold_what_the_truth_says(records: list[Record], tmp_path: Path) -> None:
    """A row is found again by its file and number, and a line that is broken on purpose is
    broken.
    """
    truth = write(records, tmp_path)
    assert read_truth(tmp_path) == truth and len(truth) == len(records)
    by_key = {record.key: record for record in records}
    for name in {each.file for each in truth}:
        own = [each for each in truth if each.file == name]
        if name.endswith(".parquet"):
            assert pq.read_table(tmp_path / name)["uid"].to_pylist() == [each.key for each in own]
            continue
        lines = (tmp_path / name).read_text().splitlines()
        assert len(lines) == len(own)
        for each, line in zip(own, lines, strict=True):
            if each.kind == "broken_line":
                continue
            read = json.loads(line)
            assert read["uid"] == each.key and (each.kind == "missing_field") == (
                not {"query", "label"} <= read.keys()
            )
            if each.kind == "sound" and each.pictured:
                assert (tmp_path / name).parent.joinpath(*read["images"]).read_bytes() == by_key[
                    each.key
                ].image


def test_equal_rows_are_equal_files(records: list[Record], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(records, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 12 and all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


def test_the_recipe_is_one(tmp_path: Path) -> None:
    write_recipe(tmp_path, tmp_path / "r.toml", 200, 5)
    recipe = Recipe.load(tmp_path / "r.toml")
    assert recipe.seed == 5 and [source.split for source in recipe.curate.sources] == [
        "train",
        "train",
        "rl",
        "eval",
        "decontaminate",
    ]
    assert recipe.curate.sources[0].columns == COLUMNS and recipe.curate.paired_share == 1.0


def test_evaluation_and_training_stories_share_no_8_words() -> None:
    """N-grams then find planted leaks only."""
    rng = np.random.default_rng(0)

    def text(part: problems.Part) -> str:
        return problems.problem(rng, part).question

    grams = {
        part: set().union(
            *(problems.ngrams(problems.problem(rng, part).question, 8) for _ in range(400))
        )
        for part in ("train", "eval")
    }
    assert min(map(len, grams.values())) > 2000 and not grams["train"] & grams["eval"]


def test_a_story_adds_up() -> None:
    made = problems.fill(
        "{name} has {a} times {b} less {c}.", ("a", "x b", "- c"), (("name", "Ben"),), (4, 5, 6)
    )
    assert (made.question, made.answer) == ("Ben has 4 times 5 less 6.", "14")
    assert made.trace == "First 4 x 5 = 20, then 20 - 6 = 14. The answer is 14."


def test_similarity_is_jaccard_of_shingles() -> None:
    assert problems.similarity("a b c d", "A, b c e!") == pytest.approx(1 / 3)


def test_edits_stay_alike_and_renumbering_changes_the_answer() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        story = problems.problem(rng, "train")
        assert len(story.question.split()) >= 20
        text = problems.edited(story.question, rng)
        assert text != story.question and problems.similarity(text, story.question) >= 0.84
        other = problems.renumbered(story, rng, 1)
        assert (
            other.answer != story.answer
            and sum(a != b for a, b in zip(other.numbers, story.numbers, strict=True)) == 1
        )


def test_another_png_has_the_same_pixels_and_the_three_encodings_have_not() -> None:
    data = hard("digits").image or b""
    rng = np.random.default_rng(0)
    files = {pictures.as_other_png(data, rng) for _ in range(20)}
    assert len(files) == 4 and data not in files
    original = pictures.decode(data)
    for file in files:
        assert pictures.decode(file).convert("L").tobytes() == original.tobytes()
    assert pictures.decode(pictures.as_jpeg(data)).tobytes() != original.tobytes()
    assert pictures.decode(pictures.rescaled(data)).size == (80, 80)
    up = np.asarray(pictures.decode(pictures.brighter(data))).astype(int) - np.asarray(original)
    assert up.max() == 8 and np.median(up) == 8


@pytest.mark.parametrize("make", ["random_image", "no_picture", "truncated_image", "empty_image"])
def test_broken_pictures_cannot_be_decoded(make: str) -> None:
    record, rng = hard("charts"), np.random.default_rng(0)
    for _ in range(40):
        with pytest.raises((OSError, SyntaxError)):
            pictures.decode(damage.PICTURED[make](record, rng).image or b"")


def test_bombs_are_small_and_want_much() -> None:
    data = pictures.lying_header(7)
    assert len(data) < 300 and data != pictures.lying_header(8)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    data = pictures.bomb(np.random.default_rng(5))
    assert len(data) < 1 << 20
    with pytest.raises((Image.DecompressionBombError, ValueError)):
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize("task", IMAGE_FAMILIES)
def test_a_changed_element_is_all_that_changes(task: str) -> None:
    """Question and the other elements stay; trace and answer follow."""
    record, rng = hard(task), np.random.default_rng(0)
    changed = variants.element_changed(record, rng)
    differs = [
        i for i, (a, b) in enumerate(zip(record.values, changed.values, strict=True)) if a != b
    ]
    assert (
        len(differs) == 1
        and changed.question == record.question
        and changed.trace.endswith(f"so {changed.answer}")
    )
    pixels = np.asarray(pictures.decode(record.image or b"")) != np.asarray(
        pictures.decode(changed.image or b"")
    )
    inside = np.zeros_like(pixels)
    inside[variants.box(record, differs[0])] = True
    assert pixels[inside].any() and not pixels[~inside].any()


def test_swapped_bars_are_another_picture_with_the_same_answer() -> None:
    record = next(r for i in range(9) if variants.can_swap(r := hard("charts", i)))
    swapped = variants.elements_swapped(record, np.random.default_rng(0))
    assert swapped.answer == record.answer and swapped.values[:2] == record.values[1::-1]
    before, after = (np.asarray(pictures.decode(r.image or b"")) for r in (record, swapped))
    assert (after[:37, :8] == before[:37, 8:16]).all() and (
        after[:37, 8:16] == before[:37, :8]
    ).all()
    assert (after[:, 16:] == before[:, 16:]).all()


def test_a_bar_is_drawn_as_the_family_draws_it() -> None:
    """A chart whose changed bar looked unlike the others would be easy to tell apart."""
    record = hard("charts")
    pixels = np.asarray(pictures.decode(record.image or b""))
    for at, value in enumerate(record.values):
        assert (
            (pixels[variants.box(record, at)] > 100) == (variants.draw_bar(int(value)) > 0.5)
        ).all()


def test_other_hands_write_the_same() -> None:
    record = hard("arithmetic")
    other = variants.other_handwriting(record, np.random.default_rng(0))
    assert replace(other, image=record.image) == record and other.image != record.image


def test_another_question_has_its_own_answer() -> None:
    record, rng = hard("digits"), np.random.default_rng(0)
    answers = {
        (made := variants.other_question(record, rng)).question: made.answer for _ in range(20)
    }
    assert sorted(answers.values()) == sorted([str(len(record.values)), record.values[0]])


@pytest.mark.parametrize(
    "record",
    [
        hard("digits"),
        from_problem(problems.fill("{a}{b}{c}", ("a", "x b", "- c"), (), (4, 5, 6)), "k"),
    ],
)
def test_traces_are_wrong_as_told(record: Record) -> None:
    rng = np.random.default_rng(0)
    steps = damage.STEP.findall(record.trace)

    step = damage.wrong_step(record, rng)
    differs = [
        i
        for i, (a, b) in enumerate(zip(steps, damage.STEP.findall(step.trace), strict=True))
        if a != b
    ]
    assert (
        len(differs) == 1
        and differs[0] < len(steps) - 1
        and damage.CONCLUSION.findall(step.trace) == [record.answer]
    )

    both = damage.wrong_steps_and_answer(record, rng)
    assert (
        damage.STEP.findall(both.trace) == [*steps[:-1], both.answer]
        and both.answer != record.answer
    )
    assert damage.CONCLUSION.findall(both.trace) == [both.answer]

    end = damage.wrong_conclusion(record, rng)
    assert (
        end.answer == record.answer != damage.CONCLUSION.findall(end.trace)[0]
        and damage.STEP.findall(end.trace) == steps
    )

    answer = damage.wrong_answer(record, rng)
    assert answer.trace == record.trace and answer.answer != record.answer


def test_a_wrong_reading_is_right_in_itself() -> None:
    """Nothing but the picture contradicts it."""
    record = hard("charts")
    read = damage.wrong_reading(record, np.random.default_rng(0))
    assert read.image == record.image and read.answer != record.answer
    assert read.trace == variants.chart_trace([int(value) for value in read.values])[0]


def test_a_mislabeled_mode_is_the_other_one() -> None:
    record = hard("sums")
    assert (record.mode, damage.mislabeled_mode(record, np.random.default_rng(0)).mode) == (
        "thinking",
        "non_thinking",
    )
