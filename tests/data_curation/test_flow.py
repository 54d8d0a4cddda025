"""Candidates -> checks, repeats, tags, formats, published files; all without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config import CurateConfig, RolloutSampling, SourceConfig
from bimode.dataset import Row, read_prompts
from bimode.errors import ConfigError, StarvedError
from data_curation.candidates import CANDIDATE_SCHEMA, replace_columns
from data_curation.dedup import mark_repeats
from data_curation.formats import is_paired, mark_without_trace, training_rows
from data_curation.publish import publish
from data_curation.report import render, warn_about_share
from data_curation.rollouts import Rollout, Tagger
from data_curation.sources import Draw, draw_row, plan_draws
from data_curation.tagging import choose_rows, tag_candidates
from data_curation.validate import check_row

EVEN = (1.0, 1.0, 1.0)
SOURCES = tuple(SourceConfig(family=name) for name in ("digits", "charts", "arithmetic"))
CONFIG = CurateConfig(sources=SOURCES, train=12, rl=6, eval=9, paired_share=0.0, rollouts=RolloutSampling(n=4))


def drawn(config: CurateConfig = CONFIG) -> pa.Table:
    rows = [draw_row(d, i, 0, config.level_weights) for d in plan_draws(config) for i in range(d.count)]
    return pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA).sort_by("id")


def tagger() -> Tagger:
    return Tagger(object, "tiny", "0", "float32", 256, CONFIG.rollouts, 0, {})


def rollouts_of(table: pa.Table, passes: dict[str, int]) -> list[Rollout]:
    """`passes` right direct attempts of 4 by level; no thinking attempt is ever right."""
    return [
        Rollout(row["id"], "", mode, k, mode == "non_thinking" and k < passes[row["level"]], 3, "", "")
        for row in table.select(["id", "level"]).to_pylist()
        for mode in ("non_thinking", "thinking")
        for k in range(4)
    ]


def test_draws_keep_the_counts_and_evaluation_has_exact_thirds() -> None:
    table = drawn()
    assert {s: table["split"].to_pylist().count(s) for s in ("train", "rl", "eval")} == {"train": 12, "rl": 6, "eval": 9}
    levels = [r["level"] for r in table.to_pylist() if r["split"] == "eval"]
    assert [levels.count(level) for level in ("easy", "mid", "hard")] == [3, 3, 3]
    assert set(table["reason"].to_pylist()) == {""}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": " "}, "empty_answer"),
        ({"images": []}, "marker_mismatch"),
        ({"images": [{"bytes": b"no picture", "path": "x.png"}]}, "image_broken"),
        ({"verifier": "oracle"}, "unknown_verifier"),
        ({"prompt": [{"role": "user", "content": "<image>"}]}, "empty_question"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    row: Row = draw_row(Draw(SOURCES[0], "train", "train", 1), 0, 0, EVEN)
    assert check_row(row | change)[0] == reason


def test_copies_go_and_what_repeats_an_evaluation_row_is_contaminated() -> None:
    rows = drawn().to_pylist()
    held_out = next(r for r in rows if r["split"] == "eval")
    train = next(r for r in rows if r["split"] == "train")
    planted = [train | {"id": "zz-copy"}, held_out | {"id": "zz-leak", "split": "train"}]
    marked = {r["id"]: r for r in mark_repeats(pa.Table.from_pylist(rows + planted, schema=CANDIDATE_SCHEMA)).to_pylist()}
    assert (marked["zz-copy"]["reason"], marked["zz-copy"]["detail"]) == ("duplicate", train["id"])
    assert (marked["zz-leak"]["reason"], marked["zz-leak"]["detail"]) == ("contaminated", held_out["id"])
    assert not marked[train["id"]]["reason"] and not marked[held_out["id"]]["reason"]


def test_tags_choose_the_format_and_counts_are_kept() -> None:
    table = drawn()
    chosen = table.take(choose_rows(table, 0))
    tagged = tag_candidates(table, rollouts_of(chosen, {"easy": 4, "mid": 0, "hard": 0}), tagger(), CONFIG)
    for row in tagged.to_pylist():
        if row["split"] != "train":
            assert row["mode_reason"] == "untagged"
        elif row["level"] == "easy":
            assert (row["n_pass_direct"], row["n_rollouts"]) == (4, 4) and row["mode"] != "thinking"
        else:
            assert row["mode"] == "thinking"
            [only] = training_rows(row, CONFIG)
            assert only["format"] == "thinking" and only["trace_source"] == "oracle"
            assert only["messages"][-1]["content"].startswith("<think>\nlook :")


def test_paired_share_one_gives_every_row_both_formats() -> None:
    config = CONFIG.model_copy(update={"paired_share": 1.0})
    row = drawn().to_pylist()[0] | {"mode": "thinking"}
    assert [r["format"] for r in training_rows(row, config)] == ["non_thinking", "thinking"]


def test_rows_beyond_tag_rows_are_rejected_not_guessed(tmp_path: Path) -> None:
    table = drawn()
    chosen = table.take(choose_rows(table, 5))
    passes = {"easy": 4, "mid": 0, "hard": 0}
    tagged = tag_candidates(table, rollouts_of(chosen, passes), tagger(), CONFIG)
    published = publish(tagged, CONFIG, tmp_path)
    assert published.rejects == {"untagged": 7}
    assert sum(published.tags.values()) == 5


def test_a_row_in_both_formats_needs_no_tag_and_is_the_last_to_get_one(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"paired_share": 0.5})
    table = drawn()
    train = [row["id"] for row in table.to_pylist() if row["split"] == "train"]
    unpaired = {name for name in train if not is_paired(name, config)}
    assert 2 < len(unpaired) < 10
    chosen = table.take(choose_rows(table, len(unpaired) - 1))
    assert set(chosen["id"].to_pylist()) < unpaired
    passes = {"easy": 4, "mid": 0, "hard": 0}
    published = publish(tag_candidates(table, rollouts_of(chosen, passes), tagger(), config), config, tmp_path)
    assert published.rejects == {"untagged": 1}
    assert sum(published.tags.values()) == len(unpaired) - 1


def test_publishing_twice_gives_equal_bytes_that_datasets_decodes(tmp_path: Path) -> None:
    import datasets

    table = drawn()
    chosen = table.take(choose_rows(table, 0))
    tagged = tag_candidates(table, rollouts_of(chosen, {"easy": 4, "mid": 0, "hard": 0}), tagger(), CONFIG)
    published = publish(tagged, CONFIG, tmp_path / "a")
    publish(tagged, CONFIG, tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    data = datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    assert data["rl"][0]["images"][0].size == (40, 40)
    assert len(read_prompts(tmp_path / "a", "eval")) == published.rows["eval"] == 9
    tags = pq.read_table(tmp_path / "a" / "tags" / "tags.parquet").to_pylist()
    assert len(tags) == 12
    assert {t["tag_rule"] for t in tags if t["mode"] == "thinking"} == {"direct_poor"}
    assert all(0 <= t["tag_low"] <= t["tag_high"] <= 1 for t in tags)
    assert [op["op"] for op in data["train"][0]["ops"]] == ["draw", "check", "exact_dedup", "tag", "format"]
    assert "data:image/png" in render(tagged, published)


def test_a_row_without_a_trace_is_not_taught_as_reasoning(tmp_path: Path) -> None:
    table = drawn()
    bare = replace_columns(table, {"trace": [""] * table.num_rows})
    marked = mark_without_trace(bare, CONFIG)
    assert marked["reason"].to_pylist().count("no_trace") == 12
    (tmp_path / "data").mkdir()
    with pytest.raises(StarvedError, match=r"no train rows.*no_trace"):
        publish(marked, CONFIG, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["data"], "what was published before stays"
    as_it_is = CONFIG.model_copy(update={"formats": "transcription_and_direct"})
    assert set(mark_without_trace(bare, as_it_is)["reason"].to_pylist()) == {""}


def test_a_degenerate_share_is_said_loudly(tmp_path: Path) -> None:
    table = drawn()
    chosen = table.take(choose_rows(table, 0))
    none_right = tag_candidates(table, rollouts_of(chosen, {"easy": 0, "mid": 0, "hard": 0}), tagger(), CONFIG)
    assert "100%" in warn_about_share(publish(none_right, CONFIG, tmp_path))


def test_a_source_named_twice_is_one_line() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        plan_draws(CONFIG.model_copy(update={"sources": (SOURCES[0], SOURCES[0])}))
