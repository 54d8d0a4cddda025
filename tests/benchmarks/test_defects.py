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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.defect_data import damage, pictures, variants, words
from benchmarks.defect_data.files import COLUMNS, Truth, read_truth, write, write_recipe
from benchmarks.defect_data.kinds import KINDS, STAGES, counts
from benchmarks.defect_data.plant import IMAGE_FAMILIES, OF, Planter, family
from benchmarks.defect_data.record import Record, from_problem, from_sample
from benchmarks.defect_data.scoring import (
    Finder,
    Outcome,
    Removed,
    lost,
    read_outcome,
    score_kinds,
    score_modes,
    score_stages,
    stage_of,
    worst,
)
from bimode.config.load import load_recipe

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
    recipe = load_recipe(tmp_path / "r.toml")
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
    grams = {
        part: set().union(*(words.ngrams(words.problem(rng, part).question, 8) for _ in range(400)))
        for part in ("train", "eval")
    }
    assert min(map(len, grams.values())) > 2000 and not grams["train"] & grams["eval"]


def test_a_story_adds_up() -> None:
    made = words.fill(
        "{name} has {a} times {b} less {c}.", ("a", "x b", "- c"), (("name", "Ben"),), (4, 5, 6)
    )
    assert (made.question, made.answer) == ("Ben has 4 times 5 less 6.", "14")
    assert made.trace == "First 4 x 5 = 20, then 20 - 6 = 14. The answer is 14."


def test_similarity_is_jaccard_of_shingles() -> None:
    assert words.similarity("a b c d", "A, b c e!") == pytest.approx(1 / 3)


def test_edits_stay_alike_and_renumbering_changes_the_answer() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        story = words.problem(rng, "train")
        assert len(story.question.split()) >= 20
        text = words.edited(story.question, rng)
        assert text != story.question and words.similarity(text, story.question) >= 0.84
        other = words.renumbered(story, rng, 1)
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
        from_problem(words.fill("{a}{b}{c}", ("a", "x b", "- c"), (), (4, 5, 6)), "k"),
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


def test_a_mislabelled_mode_is_the_other_one() -> None:
    record = hard("sums")
    assert (record.mode, damage.mislabelled_mode(record, np.random.default_rng(0)).mode) == (
        "thinking",
        "non_thinking",
    )


def row(
    number: int,
    kind: str = "sound",
    same: int = 0,
    split: str = "train",
    pictured: bool = True,
    mode: str = "thinking",
) -> Truth:
    original = f"row-{same:06d}" if same else ""
    return Truth(
        f"row-{number:06d}",
        kind,
        original,
        f"train/{split}-0.jsonl",
        number,
        pictured,
        split,
        "thinking",
    )


def outcome(truth: list[Truth], **reasons: list[int]) -> Outcome:
    """What was not removed for one of `reasons` was published; a contaminated row was found by its
    picture.
    """
    removed = {
        f"row-{n:06d}": Removed(f"row-{n:06d}", reason, "image")
        for reason, numbers in reasons.items()
        for n in numbers
    }
    return Outcome(frozenset(each.key for each in truth) - removed.keys(), removed, {})


def stages(truth: list[Truth], **reasons: list[int]) -> dict[str, tuple[int, int, int, int]]:
    scores = score_stages(truth, outcome(truth, **reasons))
    return {s.stage: (s.planted, s.found, s.removed, s.right) for s in scores}


def test_recall_and_precision_by_hand() -> None:
    """Of three broken rows two are found, one as a loop, which is another class; a sound row is
    lost beside them.
    """
    truth = [
        *(row(n, "bomb_image") for n in (1, 2, 3)),
        row(4),
        row(5, "looping_trace"),
        row(6, "leak_other_numbers"),
    ]
    result = outcome(
        truth, image_size=[1, 4], image_broken=[2], repetition=[3, 5], contaminated=[6]
    )
    scores = {score.stage: score for score in score_stages(truth, result)}
    assert (scores["validation"].recall, scores["validation"].precision) == (2 / 3, 2 / 3)
    assert (scores["looping traces"].recall, scores["looping traces"].precision) == (1.0, 0.5)
    assert set(scores) == {
        "validation",
        "looping traces",
    }, "a row that may go or stay counts nowhere"
    assert worst(scores.values()) == 2 / 3, "looping traces have no goal"


@pytest.mark.parametrize(
    ("gone", "found", "right"),
    [([2, 3], 2, 2), ([1, 2], 2, 2), ([1, 3], 2, 2), ([3], 1, 1), ([1, 2, 3], 2, 2), ([], 0, 0)],
)
def test_exactly_one_of_a_group_may_stay(gone: list[int], found: int, right: int) -> None:
    """Any one of them; where all are gone, one was removed wrongly."""
    truth = [row(1), row(2, "copy_jpeg", 1), row(3, "copy_jpeg", 1)]
    expected = (2, found, len(gone), right)
    assert stages(truth, near_duplicate=gone) == {"dedup, near image": expected}


def test_a_copy_found_by_the_neighbouring_stage_is_found() -> None:
    truth = [
        row(1),
        row(2, "copy_png", 1),
        row(3, "copy_edited_text", 4, pictured=False),
        row(4, pictured=False),
    ]
    assert stages(truth, near_duplicate=[2, 4]) == {
        "dedup, exact": (1, 1, 0, 0),
        "dedup, near image": (0, 0, 1, 1),
        "dedup, text": (1, 1, 1, 1),
    }


def test_a_copy_removed_as_a_leak_is_an_error_of_decontamination() -> None:
    truth = [row(1), row(2, "copy_png", 1)]
    assert stages(truth, contaminated=[2]) == {
        "dedup, exact": (1, 0, 0, 0),
        "decontamination, image": (0, 0, 1, 0),
    }


def test_rows_that_must_stay_count_against_whoever_removes_them() -> None:
    truth = [row(1), row(2, "elements_swapped", 1), row(3, "foreign")]
    assert stages(truth, near_duplicate=[2], wrong_language=[3], untagged=[1]) == {
        "dedup, near image": (0, 0, 1, 0),
        "language": (1, 1, 1, 1),
        "other reasons": (0, 0, 1, 0),
    }


def test_kinds_say_where_their_rows_went() -> None:
    truth = [row(1), row(2, "copy_png", 1), row(3, "wrong_answer"), row(4, "wrong_answer")]
    scores = {
        s.kind: s for s in score_kinds(truth, outcome(truth, duplicate=[1], near_duplicate=[3]))
    }
    assert (scores["copy_png"].found, scores["copy_png"].kept) == (
        1,
        1,
    ), "the original went in its place"
    assert (
        scores["wrong_answer"].found,
        scores["wrong_answer"].kept,
        scores["wrong_answer"].others,
    ) == (
        0,
        1,
        {"near_duplicate": 1},
    )


@pytest.mark.parametrize(
    ("reason", "method", "pictured", "stage"),
    [
        ("contaminated", "exact question + pixels", True, "decontamination, exact"),
        ("contaminated", "near image + answer", True, "decontamination, image"),
        ("contaminated", "8-grams", False, "decontamination, text"),
        ("near_duplicate", "", False, "dedup, text"),
        ("duplicate", "", False, "dedup, exact"),
        ("image_truncated", "", True, "validation"),
        ("brand_new_reason", "", True, "other reasons"),
    ],
)
def test_reasons_have_their_stage(reason: str, method: str, pictured: bool, stage: str) -> None:
    assert stage_of(Removed("k", reason, method), pictured).name == stage


def test_no_reason_and_no_kind_has_two_stages() -> None:
    reasons = [reason for stage in STAGES for reason in stage.reasons]
    assert len(set(reasons)) == len(reasons) and len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.stage for kind in KINDS} <= {stage.name for stage in STAGES} | {"", "unscored"}


def test_rows_are_known_by_id_and_by_place() -> None:
    """A record without an id has the name of its file and its number in it; what is neither is a
    stranger.
    """
    find = Finder([row(7)])
    assert find("train-lines-row-000007-thinking", []) == "row-000007"
    assert find("refused-9f", ["train-0.jsonl#7"]) == "row-000007"
    assert (
        find("refused-9f", ["train-0.jsonl#8"]) == find("row-000009", []) == find("x", None) == ""
    )


def test_what_is_lost_and_what_is_twice_is_told() -> None:
    truth = [row(1), row(2), row(3), row(4, split="decontaminate")]
    result = Outcome(
        frozenset(["row-000001", "row-000003"]),
        {"row-000001": Removed("row-000001", "duplicate")},
        {},
    )
    assert lost(truth, result) == (["row-000002"], ["row-000001"])


def test_an_outcome_is_read_from_data_and_rejects(tmp_path: Path) -> None:
    """Both formats of a row are one row; one in the direct format only has lost its trace; items
    that go nowhere are no part.
    """
    truth = [row(1), row(2), row(3), row(4)]
    for name in ("data", "rejects"):
        (tmp_path / name).mkdir()
    formats = {
        "a-row-000001-thinking": "thinking",
        "a-row-000001-non_thinking": "non_thinking",
        "a-row-000004": "non_thinking",
    }
    published = {"id": list(formats), "source_refs": [["x"]] * 3, "format": list(formats.values())}
    pq.write_table(pa.table(published), tmp_path / "data" / "train-0.parquet")
    rejects = {
        "id": ["refused-1", "a-row-000003", "odd"],
        "source_refs": [["train-0.jsonl#2"], ["y"], []],
        "reason": ["bad_record", "contaminated", "unreadable_file"],
        "contamination": [None, {"method": "exact"}, None],
    }
    pq.write_table(pa.table(rejects), tmp_path / "rejects" / "r.parquet")
    found = read_outcome(tmp_path, truth)
    assert found.kept == {"row-000001"} and found.strangers == {"unreadable_file": 1}
    assert found.removed == {
        "row-000002": Removed("row-000002", "bad_record"),
        "row-000003": Removed("row-000003", "contaminated", "exact"),
        "row-000004": Removed("row-000004", "no_trace"),
    }


def test_tags_are_held_against_what_rows_claim(tmp_path: Path) -> None:
    """Two rows claim the wrong mode: a tag contradicts one of them, and a row that was right."""
    assert score_modes(tmp_path, [row(1, "mislabelled_mode")]) is None
    (tmp_path / "tags").mkdir()
    tags = {
        "id": [f"s-row-{n:06d}" for n in (1, 2, 3, 4)],
        "mode": ["non_thinking", "thinking", "non_thinking", "either"],
    }
    pq.write_table(pa.table(tags), tmp_path / "tags" / "tags.parquet")
    score = score_modes(
        tmp_path,
        [
            row(1, "mislabelled_mode"),
            row(2, "mislabelled_mode"),
            row(3),
            row(4, "mislabelled_mode"),
        ],
    )
    assert score and (score.planted, score.found, score.removed, score.right) == (2, 1, 2, 1)
