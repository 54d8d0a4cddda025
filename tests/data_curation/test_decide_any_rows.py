"""What holds for the decisions on any rows, drawn by hypothesis."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from bimode.config.curate import DedupConfig
from data_curation.dedup.decide import DECISION_SCHEMA, decide
from data_curation.dedup.fingerprints import answer_key, question_key
from tests.data_curation.deciding import (
    CONFIG,
    ORDER,
    Case,
    decided,
    index_of,
    run,
    write,
)

CASES = st.builds(
    Case,
    id=st.sampled_from([f"id-{k}" for k in range(30)]),
    split=st.sampled_from(ORDER),
    question=st.sampled_from(["how many ?", "How  many?", "the sum ?"]),
    answer=st.sampled_from(["17", "18", "17."]),
    pictures=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), max_size=2).map(tuple),
    reason=st.sampled_from(["", "", "", "image_broken"]),
)
TABLES = st.lists(st.lists(CASES, max_size=7), min_size=1, max_size=4)


@settings(max_examples=10)
@given(TABLES)
def test_what_holds_for_any_rows(shards: list[list[Case]]) -> None:
    """in = kept + out; rows go for rows before them that stood; no two that stay are the same;
    items go for items only.
    """
    with TemporaryDirectory() as name:
        counts = run(Path(name), *shards)
        rows = decided(Path(name))
        assert pq.read_schema(Path(name) / "out.parquet").equals(DECISION_SCHEMA)
    places = [
        (file, at)
        for file, cases in enumerate(shards)
        for at, case in enumerate(cases)
        if not case.reason
    ]
    assert [(row["file"], row["row"]) for row in rows] == places and counts.alive == len(places)
    out = counts.duplicate_ids + counts.duplicates + counts.near_duplicates + counts.contaminated
    assert counts.alive == counts.kept + out and counts.kept == sum(
        not row["reason"] for row in rows
    )
    kept = [shards[row["file"]][row["row"]] for row in rows if not row["reason"]]
    items = Counter(answer_key(case.answer) for case in kept if is_item(case))
    telling = {answer for answer, count in items.items() if count <= 3}
    for at, one in enumerate(kept):
        assert not any(same(one, two, telling) for two in kept[at + 1 :])
    for row in rows:
        if row["reason"] in ("", "duplicate_id"):
            continue
        own = shards[row["file"]][row["row"]]
        hits = [
            shards[r["file"]][r["row"]]
            for r in rows
            if r["id"] == row["detail"] and r["reason"] != "duplicate_id"
        ]
        assert any(ORDER.index(hit.split) <= ORDER.index(own.split) for hit in hits)
        assert (row["reason"] == "contaminated") == (row["contamination"]["hit"] != "")


def is_item(case: Case) -> bool:
    return case.split in ("eval", "decontaminate")


def same(one: Case, two: Case, telling: set[str]) -> bool:
    """The rules of ids, content and pictures, plainly; `telling` answers are those of few items."""
    shown = [[picture for picture, _ in case.pictures] for case in (one, two)]
    asks = question_key(one.question) == question_key(two.question)
    near = (
        answer_key(one.answer) == answer_key(two.answer)
        and shown[0] == shown[1]
        and bool(one.pictures)
    )
    if one.id == two.id and "decontaminate" not in (one.split, two.split):
        return True
    if (
        is_item(one) and is_item(two) and "decontaminate" in (one.split, two.split)
    ):  # an item asked elsewhere stays beside a similar one
        near = False
    leak = is_item(one) != is_item(two) and answer_key(one.answer) in telling
    return (asks and (one.pictures == two.pictures or near)) or (near and leak)


@settings(max_examples=4)
@given(TABLES, st.randoms(use_true_random=False))
def test_what_stays_of_each_content_does_not_hang_on_the_order(
    shards: list[list[Case]], random: Any
) -> None:
    """Without the rules of nearness (a row that goes for another is not known before) and with ids
    of their own.
    """
    cases = [
        replace(case, id=f"{file}-{at}")
        for file, rows in enumerate(shards)
        for at, case in enumerate(rows)
    ]
    config, contents = DedupConfig(image_radius=0, text_similarity=0, ngram=0), []
    for _ in range(2):
        with TemporaryDirectory() as name:
            run(Path(name), cases, config=config)
            kept = [cases[row["row"]] for row in decided(Path(name)) if not row["reason"]]
        contents.append(sorted((case.split, case.row()["content_key"]) for case in kept))
        random.shuffle(cases)
    assert contents[0] == contents[1]


@settings(max_examples=3)
@given(TABLES)
def test_equal_input_gives_equal_bytes_whatever_the_threads(shards: list[list[Case]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = write(folder, shards)
        for threads in (1, 3):
            decide(
                files,
                [],
                CONFIG,
                folder / f"{threads}.out",
                threads=threads,
                scratch=folder / "scratch",
            )
            index_of(files, folder / f"{threads}.out", folder / f"{threads}.index", "run")
        for kind in ("out", "index"):
            assert len({(folder / f"{threads}.{kind}").read_bytes() for threads in (1, 3)}) == 1
        assert list((folder / "scratch").iterdir()) == []


@settings(max_examples=4)
@given(TABLES, TABLES)
def test_items_do_not_go_for_train_rows(shards: list[list[Case]], more: list[list[Case]]) -> None:
    """Train and rl rows, and those of an earlier run, change nothing of what becomes of evaluation
    items.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        train = [
            [replace(case, split="train") if case.split == "eval" else case for case in cases]
            for cases in more
        ]
        run(folder / "old", *train)
        index_of(
            sorted((folder / "old" / "shards").iterdir()),
            folder / "old" / "out.parquet",
            folder / "index.parquet",
            "old",
        )
        run(folder / "all", *shards, earlier=[folder / "index.parquet"])
        items = [
            [case for case in cases if case.split in ("eval", "decontaminate")] for cases in shards
        ]
        run(folder / "items", *items)
        both = (
            [
                (row["id"], row["split"], row["reason"])
                for row in decided(folder / run_)
                if row["split"] in ("eval", "decontaminate")
            ]
            for run_ in ("all", "items")
        )
        assert next(both) == next(both)
