"""The story of a row: found by whatever a user has of it, with numbers known by hand, and one line
where there is none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bimode.errors import ConfigError
from data_curation.publishing.row_history import (
    ImageInfo,
    RowHistory,
    Trained,
    image_info,
    load_history,
)

sys.path.insert(0, str(Path(__file__).parent))
from curated_run import BROKEN, DIGITS, HASH, OTHER_HASH, Curated, curate, reject


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curate(tmp_path_factory.mktemp("run"))


def message(run: Path, wanted: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_history(run, wanted)
    return str(error.value)


def test_a_tag_is_told_with_its_evidence(curated: Curated) -> None:
    """0 of 8 at a guess rate of 1/23: Wilson's upper bound at 90 % is 0.2527, corrected (0.2527 -
    1/23) / (22/23) = 0.2187.
    """
    story = load_history(curated.run, DIGITS.format(4))
    evidence = story.evidence
    assert evidence is not None and evidence.interval is not None
    assert (evidence.row["mode"], evidence.row["tag_rule"], evidence.confidence) == (
        "thinking",
        "non_thinking_poor",
        0.9,
    )
    assert (
        evidence.row["n_pass_non_thinking"],
        evidence.row["n_pass_thinking"],
        evidence.row["n_rollouts"],
    ) == (0, 8, 8)
    assert evidence.corrected == 0.0
    assert evidence.interval == pytest.approx((0.0, 0.2187), abs=1e-4)
    assert [(stored.reason, stored.row["format"], stored.file) for stored in story.rows] == [
        ("", "thinking", "data/train-00000-of-00001.parquet")
    ]


def test_rate_is_corrected_for_guessing(curated: Curated) -> None:
    """6 of 8 at a guess rate of 1/20, of two digits: (0.75 - 1/20) / (19/20) = 14/19."""
    evidence = load_history(curated.run, DIGITS.format(6)).evidence
    assert evidence is not None and evidence.corrected == pytest.approx(14 / 19)


def test_each_row_that_it_was_written_as_is_there(curated: Curated) -> None:
    story = load_history(curated.run, DIGITS.format(6))
    assert [stored.row["id"] for stored in story.rows] == [
        f"{story.id}-non_thinking",
        f"{story.id}-thinking",
    ]
    assert {len(story.images), story.images[0].what == "PNG, 40 x 40 pixels"} == {1}


@pytest.mark.parametrize("wanted", ["{}-thinking", "{}-non_th", "{}"])
def test_a_written_row_its_beginning_and_its_question_are_the_same_story(
    curated: Curated, wanted: str
) -> None:
    question = DIGITS.format(6)
    assert load_history(curated.run, wanted.format(question)) == load_history(curated.run, question)


def test_a_source_reference_finds_what_could_not_even_be_read(curated: Curated) -> None:
    story = load_history(curated.run, "bad.jsonl#17")
    assert story.id.startswith("refused-") and story.rows[0].reason == "bad_record"
    assert story.images == () and story.evidence is None and story.cause is None


def test_a_repeat_names_the_row_that_is_kept_and_the_group(curated: Curated) -> None:
    story = load_history(curated.run, DIGITS.format(1))
    assert story.rows[0].reason == "duplicate"
    assert story.cause is not None and (story.cause.question_id, story.cause.reason) == (
        DIGITS.format(0),
        "",
    )
    assert [(other.question_id, other.reason) for other in story.group] == [
        (DIGITS.format(0), ""),
        (DIGITS.format(2), "near_duplicate"),
    ]
    assert [other.question_id for other in load_history(curated.run, DIGITS.format(0)).group] == [
        DIGITS.format(1),
        DIGITS.format(2),
    ]


def test_contamination_names_the_evaluation_row(curated: Curated) -> None:
    story = load_history(curated.run, DIGITS.format(3))
    assert story.hit is not None and (story.hit.question_id, story.hit.row["split"]) == (
        "digits-eval-0-0",
        "eval",
    )
    assert load_history(curated.run, DIGITS.format(4)).hit is None


def test_attempts_that_the_tag_rests_on_are_told_from_others(curated: Curated) -> None:
    story: RowHistory = load_history(curated.run, DIGITS.format(0))
    counted = [attempt for attempt in story.attempts if attempt.counted]
    assert len(counted) == 16 and {attempt.params_hash for attempt in counted} == {HASH}
    assert sum(attempt.verdict == "right" for attempt in counted) == 16
    [other] = [attempt for attempt in story.attempts if not attempt.counted]
    assert (other.params_hash, other.verdict) == (OTHER_HASH, "no room")
    poor = load_history(curated.run, DIGITS.format(4)).attempts
    assert [attempt.verdict for attempt in poor if attempt.mode == "non_thinking"] == ["wrong"] * 8


def test_what_a_row_was_rejected_after_is_told_with_its_evidence(
    curated: Curated, tmp_path: Path
) -> None:
    """tags.parquet has kept rows only: the counts of a row that went as no_trace stand in the row
    itself.
    """
    run = Path(shutil.copytree(curated.run, tmp_path / "run", symlinks=True))
    reject(run, DIGITS.format(4), reason="no_trace", source="digits-train-0")
    story = load_history(run, "4")  # its id in its source
    assert (story.id, story.rows[0].reason) == (DIGITS.format(4), "no_trace")
    assert story.evidence is not None and story.evidence.row["n_rollouts"] == 8
    assert (story.evidence.corrected, story.evidence.interval) == (0.0, None)
    assert sum(attempt.counted for attempt in story.attempts) == 16


def test_bpo_counts_draws_and_means_by_mode(curated: Curated) -> None:
    assert load_history(curated.run, "digits-rl-0-0").trained == (
        Trained("non_thinking", 2, 4, 0.5, 5.0),
        Trained("thinking", 2, 2, 1.0, 20.0),
    )
    assert load_history(curated.run, "digits-rl-0-1").trained == ()


def test_a_broken_image_is_told_and_stops_nothing(curated: Curated) -> None:
    [broken] = load_history(curated.run, BROKEN).images
    assert broken.what.startswith("begins with") and broken.size == 15
    assert image_info(b"") == ImageInfo("no bytes", 0)


def test_what_fits_several_is_listed(curated: Curated) -> None:
    line = message(curated.run, "digits-train-0-")
    assert line.startswith(
        "ID = digits-train-0-: fits 8 questions: digits-train-0-0, digits-train-0-1,"
    )
    assert "and" not in line.rsplit(":", 1)[1]


def test_an_unknown_id_is_answered_with_those_near_it(curated: Curated) -> None:
    assert message(curated.run, "digit-train-0-4").startswith(
        "ID = digit-train-0-4: no such row; near it are digits-train-0-4, "
    )
    assert message(curated.run, "x" * 12).startswith(
        f"ID = {'x' * 12}: no such row, and none like it; ids stand in data/"
    )
    assert "no such row" in message(curated.run, "'; DROP VIEW rows; --")


def test_a_directory_without_curation_is_one_line(tmp_path: Path) -> None:
    assert "has no curate/data" in message(tmp_path, "a")


def test_versions_that_are_still_there_say_what_became_of_it(
    curated: Curated, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(curated.run, run, symlinks=True)
    versions = run / "curate" / "versions"
    shutil.copytree(versions / "0001", versions / "0002")
    shutil.copytree(versions / "0001", versions / "0003")
    (versions / "0002" / "data" / "rl-00000-of-00001.parquet").unlink()
    (versions / "0003" / "manifest.json").unlink()  # not whole
    story = load_history(run, "digits-rl-0-0")
    assert (story.version, story.history) == ("0001", {"0001": "kept", "0002": "absent"})
    assert load_history(run, DIGITS.format(1)).history == {"0001": "duplicate", "0002": "duplicate"}


def test_a_last_run_that_published_nothing_is_told_behind_the_current_version(
    curated: Curated, tmp_path: Path
) -> None:
    run, other = (
        Path(shutil.copytree(curated.run, tmp_path / name, symlinks=True))
        for name in ("run", "other")
    )
    reject(other, DIGITS.format(4), reason="no_trace", id="new-1", source="new")
    left = shutil.ignore_patterns("data", "*.json", "README.md")
    shutil.copytree(
        other / "curate" / "versions" / "0001", run / "curate" / "unpublished", ignore=left
    )
    assert (load_history(run, "new-1").version, load_history(run, "new-1").history) == (
        "unpublished",
        {"0001": "absent", "unpublished": "no_trace"},
    )
    story = load_history(run, DIGITS.format(1))
    assert (story.version, story.history) == (
        "0001",
        {"0001": "duplicate", "unpublished": "duplicate"},
    )
    assert "no such row; near it are digits-train-0-4" in message(run, "digit-train-0-4"), (
        "of what readers see"
    )


def test_a_run_of_the_layout_before_versions_is_told_too(curated: Curated, tmp_path: Path) -> None:
    shutil.copytree(curated.version, tmp_path / "curate")
    story = load_history(tmp_path, DIGITS.format(4))
    assert (story.version, story.history, story.attempts) == ("curate", {}, ())
    assert story.evidence is not None
