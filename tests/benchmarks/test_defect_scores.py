"""Scores of a tool against planted defects: recall, precision, and what each kind became."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.defect_data.files import Truth
from benchmarks.defect_data.kinds import KINDS, STAGES
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


def test_a_copy_found_by_the_neighboring_stage_is_found() -> None:
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
    assert score_modes(tmp_path, [row(1, "mislabeled_mode")]) is None
    (tmp_path / "tags").mkdir()
    tags = {
        "id": [f"s-row-{n:06d}" for n in (1, 2, 3, 4)],
        "mode": ["non_thinking", "thinking", "non_thinking", "either"],
    }
    pq.write_table(pa.table(tags), tmp_path / "tags" / "tags.parquet")
    score = score_modes(
        tmp_path,
        [
            row(1, "mislabeled_mode"),
            row(2, "mislabeled_mode"),
            row(3),
            row(4, "mislabeled_mode"),
        ],
    )
    assert score and (score.planted, score.found, score.removed, score.right) == (2, 1, 2, 1)
