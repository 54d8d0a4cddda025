"""Which rows stay, whatever their order: priority, ids, earlier runs, and what holds for any
rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import DedupConfig
from bimode.errors import ConfigError
from data_curation.dedup.decide import INDEX_SCHEMA, decide
from tests.data_curation.deciding import (
    CONFIG,
    STORY,
    Case,
    decided,
    index_of,
    reasons,
    run,
    write,
)


def test_the_first_stays_by_split_then_file_then_row(tmp_path: Path) -> None:
    run(
        tmp_path,
        [Case("rl", "rl"), Case("late")],
        [Case("train"), Case("decontaminate", "decontaminate")],
        [Case("eval", "eval"), Case("other", answer="3")],
    )
    assert reasons(tmp_path) == {
        "rl": ("contaminated", "eval", "exact question + pixels"),
        "late": ("contaminated", "eval", "exact question + pixels"),
        "train": ("contaminated", "eval", "exact question + pixels"),
        "decontaminate": ("duplicate", "eval", ""),
        "eval": ("", "", ""),
        "other": ("contaminated", "eval", "exact question + pixels"),
    }
    assert [(row["file"], row["row"]) for row in decided(tmp_path)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]


def test_without_an_item_the_first_train_row_stays(tmp_path: Path) -> None:
    counts = run(
        tmp_path,
        [Case("rl", "rl"), Case("b")],
        [Case("a", question=" What is  the REMAINDER by 23 ?")],
    )
    assert reasons(tmp_path) == {
        "rl": ("duplicate", "b", ""),
        "b": ("", "", ""),
        "a": ("duplicate", "b", ""),
    }
    assert {row["dup_group"] for row in decided(tmp_path)} == {"b"}
    assert (counts.alive, counts.kept, counts.duplicates, counts.items, counts.by_ngram) == (
        3,
        1,
        2,
        0,
        None,
    )


def test_another_answer_to_the_same_question_is_said(tmp_path: Path) -> None:
    """One of `a` and `b` is wrong, and nobody can tell which: the first stays."""
    counts = run(tmp_path, [Case("a"), Case("same", answer=" 17 "), Case("b", answer="18")])
    assert reasons(tmp_path) == {
        "a": ("", "", ""),
        "same": ("duplicate", "a", ""),
        "b": ("other_answer", "a", ""),
    }
    assert counts.duplicates == 2


def test_rows_that_were_out_take_no_part(tmp_path: Path) -> None:
    run(tmp_path, [Case("broken", reason="image_broken"), Case("sound")])
    assert reasons(tmp_path) == {"sound": ("", "", "")}


def test_an_id_is_used_once_and_items_of_another_source_may_share_it(tmp_path: Path) -> None:
    run(
        tmp_path,
        [
            Case("7"),
            Case("7", "eval", question="another ?"),
            Case("7", "decontaminate", question="a third ?"),
        ],
    )
    rows = [(row["split"], row["reason"], row["detail"]) for row in decided(tmp_path)]
    assert rows == [
        ("train", "duplicate_id", "0.jsonl#1 in eval"),
        ("eval", "", ""),
        ("decontaminate", "", ""),
    ]


def test_an_item_asked_elsewhere_stays_beside_a_similar_one(tmp_path: Path) -> None:
    """`leak` repeats `check`, in a picture and in words, and is too far from `eval` to be found by
    it.
    """
    run(
        tmp_path,
        [
            Case("eval", "eval", pictures=((1, 0),)),
            Case("decontaminate", "decontaminate", pictures=((1, 6),)),
            Case("leak", pictures=((1, 12),)),
            Case("exam", "eval", STORY),
            Case("paper", "decontaminate", STORY.replace("It is a windy day", "It is a day")),
            Case("paper 2", "decontaminate", STORY.replace("It is a windy day in March", "A day")),
        ],
    )
    assert {key: value[:2] for key, value in reasons(tmp_path).items() if value[0]} == {
        "leak": ("contaminated", "decontaminate")
    }


def test_a_group_is_named_after_the_row_that_stays(tmp_path: Path) -> None:
    """`copy` is a duplicate of `b`, which then goes for `a`; what only has the id of `b` belongs to
    neither.
    """
    near = Case("b", pictures=((1, 1),))
    run(
        tmp_path,
        [Case("a", pictures=((1, 0),)), near, replace(near, id="copy"), Case("b", question="so ?")],
    )
    assert [
        (row["id"], row["reason"], row["detail"], row["dup_group"]) for row in decided(tmp_path)
    ] == [
        ("a", "", "", "a"),
        ("b", "near_duplicate", "a", "a"),
        ("copy", "duplicate", "b", "a"),
        ("b", "duplicate_id", "0.jsonl#1 in train", "b"),
    ]


def test_what_was_published_before_is_a_duplicate_here(tmp_path: Path) -> None:
    index = published(
        tmp_path,
        "monday",
        Case("old", pictures=((1, 0),)),
        Case("exam", "eval", "an exam question ?"),
        Case("text", question=STORY, answer="353"),
        Case("item", "decontaminate", "asked elsewhere ?"),
        Case("gone", pictures=((1, 0),)),
    )
    assert pq.read_schema(index).names == INDEX_SCHEMA.names
    assert pq.read_table(index)["id"].to_pylist() == ["old", "exam", "text"]
    counts = run(
        tmp_path / "new",
        [
            Case("same", pictures=((1, 0),)),
            Case("near", "rl", pictures=((1, 1),)),
            Case("edit", question=STORY.upper() + "!", answer="353"),
            Case("leak", question="An EXAM question ?"),
            Case("eval", "eval", pictures=((1, 2),)),
            Case("eval2", "eval", "an exam question ?"),
            Case("decontaminate", question="asked elsewhere ?"),
            Case("old", question="an id of the earlier run ?"),
        ],
        earlier=[index],
    )
    assert reasons(tmp_path / "new") == {
        "same": ("duplicate", "old of monday", ""),
        "near": ("contaminated", "eval", "near image + question"),
        "edit": ("near_duplicate", "text of monday", ""),
        "leak": ("contaminated", "eval2", "exact question + pixels"),
        "eval": ("", "", ""),
        "eval2": ("", "", ""),
        "decontaminate": ("", "", ""),
        "old": ("", "", ""),
    }
    assert (counts.alive, counts.kept, counts.published_before) == (8, 4, 2)


def test_an_item_of_an_earlier_run_is_an_item_still(tmp_path: Path) -> None:
    index = published(tmp_path, "monday", Case("exam", "eval", pictures=((1, 0),)))
    run(
        tmp_path / "new",
        [Case("leak", question="asked otherwise ?", pictures=((1, 1),))],
        earlier=[index],
    )
    assert reasons(tmp_path / "new") == {
        "leak": ("contaminated", "exam of monday", "near image + answer")
    }


def published(folder: Path, name: str, *cases: Case) -> Path:
    """The index of a run of `cases`."""
    run(folder / name, cases)
    return index_of(
        [folder / name / "shards" / "0.parquet"],
        folder / name / "out.parquet",
        folder / f"{name}.index",
        name,
    )


def test_rows_of_earlier_runs_are_all_there_whatever_they_repeat(tmp_path: Path) -> None:
    """Of runs that did not know each other: 1 is near 0, 2 is near 1 only; one more repeats the
    content of an item.
    """
    stories = [
        STORY,
        STORY.replace("windy", "sunny"),
        STORY.replace("windy", "sunny").replace("closes", "opens"),
    ]
    runs = [
        published(
            tmp_path,
            f"run{k}",
            Case(f"p{k}", pictures=((1, k),)),
            Case(f"t{k}", question=stories[k], answer="353"),
        )
        for k in (0, 1)
    ]
    runs.append(
        published(tmp_path, "run2", Case("asked", question="how old ?", pictures=((3, 0),)))
    )
    config = DedupConfig(image_radius=4, ngram=0)
    cases = [
        Case("picture", pictures=((1, 2),)),
        Case("text", question=stories[2], answer="353"),
        Case("exam", "eval", "how old ?", "18", ((3, 0),)),
        Case("near", question="how old ?", pictures=((3, 1),)),
    ]
    run(tmp_path / "new", cases, earlier=runs, config=config)
    assert {key: value[1] for key, value in reasons(tmp_path / "new").items()} == {
        "picture": "p1 of run1",
        "text": "t1 of run1",
        "exam": "",
        "near": "asked of run2",
    }


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    [file] = write(tmp_path, [[Case("a")]])
    for path in (file, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="no index of a run"):
            decide([file], [path], CONFIG, tmp_path / "out.parquet")


def test_heavy_columns_are_never_read(tmp_path: Path) -> None:
    """The bytes of the pictures' column are destroyed in the file; nobody notices."""
    [file] = write(tmp_path, [[Case("a"), Case("b")]])
    table = (
        pq.read_table(file)
        .drop_columns("images")
        .append_column("images", pa.array([b"picture" * 99, b"other" * 99]))
    )
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    group = pq.ParquetFile(file).metadata.row_group(0)
    column = group.column(group.num_columns - 1)
    data = bytearray(file.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    file.write_bytes(data)
    with pytest.raises(OSError):
        pq.read_table(file)
    assert decide([file], [], CONFIG, tmp_path / "out.parquet").duplicates == 1
    made = index_of([file], tmp_path / "out.parquet", tmp_path / "index.parquet")
    assert pq.read_table(made)["id"].to_pylist() == ["a"]


def test_a_file_that_is_named_twice_is_read_twice(tmp_path: Path) -> None:
    [file] = write(tmp_path, [[Case("a"), Case("b", question="so ?")]])
    decide([file, file], [], CONFIG, tmp_path / "out.parquet")
    assert [(row["file"], row["row"], row["reason"]) for row in decided(tmp_path)] == [
        (0, 0, ""),
        (0, 1, ""),
        (1, 0, "duplicate_id"),
        (1, 1, "duplicate_id"),
    ]
