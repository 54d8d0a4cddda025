"""Candidates -> repeats, tags, formats, published files; all without an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import FilterConfig, SourceConfig
from bimode.errors import ConfigError, StarvedError
from bimode.inputs.prompt_limits import read_prompts
from bimode.modes import Mode
from data_curation import store as module
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.formats import is_paired, training_rows
from data_curation.publishing.alerts import warn_about_items, warn_about_share
from data_curation.publishing.publish import GROUP_ROWS, lineage, publish, write_shards
from data_curation.sampling.cache import Reply, write_replies
from data_curation.sources.ingest import candidates, write_candidates
from data_curation.sources.listing import file_shards, list_sources
from data_curation.sources.shards import plan_draws
from data_curation.store import Store
from data_curation.tagging.tagging import Passes, choose_rows, count_passes, objective_rows
from tests.data_curation.flow import CONFIG, SOURCES, candidate_files, decided, rows_of, tagged

SPLITS = ("train", "rl", "eval")


def test_draws_keep_the_counts_and_evaluation_has_exact_thirds(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    assert store.counts(["split"]) == {"train": 12, "rl": 6, "eval": 9}
    assert store.counts(["level"], "split = 'eval'") == {"easy": 3, "mid": 3, "hard": 3}
    assert store.counts(["reason"]) == {"": 27}


def test_copies_go_and_what_repeats_an_evaluation_row_is_contaminated(tmp_path: Path) -> None:
    files = candidate_files(tmp_path / "c")
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    held_out = next(r for r in rows if r["split"] == "eval")
    train = next(r for r in rows if r["split"] == "train")
    planted = [train | {"id": "zz-copy"}, held_out | {"id": "zz-leak", "split": "train"}]
    extra = tmp_path / "c" / "planted.parquet"
    pq.write_table(pa.Table.from_pylist(planted, schema=CANDIDATE_SCHEMA), extra)
    marked = {r["id"]: r for r in rows_of(decided([*files, extra], tmp_path / "s"))}
    assert (marked["zz-copy"]["reason"], marked["zz-copy"]["detail"]) == ("duplicate", train["id"])
    assert (marked["zz-leak"]["reason"], marked["zz-leak"]["detail"]) == (
        "contaminated",
        held_out["id"],
    )
    assert not marked[train["id"]]["reason"] and not marked[held_out["id"]]["reason"]


def test_tags_choose_the_format_and_counts_are_kept(tmp_path: Path) -> None:
    store = tagged(decided(candidate_files(tmp_path / "c"), tmp_path / "s"), tmp_path / "s")
    for row in rows_of(store):
        if row["split"] != "train":
            assert row["mode_reason"] == "untagged"
        elif row["level"] == "easy":
            assert (row["n_pass_non_thinking"], row["n_rollouts"]) == (4, 4) and row[
                "mode"
            ] != "thinking"
        else:
            assert row["mode"] == "thinking"
            [only] = training_rows(row, CONFIG)
            assert only["format"] == "thinking" and only["trace_source"] == "oracle"
            assert only["messages"][-1]["content"].startswith("<think>\nlook :")


def test_paired_share_one_gives_every_row_both_formats(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"paired_share": 1.0})
    row = rows_of(decided(candidate_files(tmp_path / "c"), tmp_path / "s"))[0] | {
        "mode": "thinking"
    }
    assert [r["format"] for r in training_rows(row, config)] == ["non_thinking", "thinking"]


def test_rows_beyond_tag_rows_are_rejected_not_guessed(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tag_rows": 5})
    store = tagged(
        decided(candidate_files(tmp_path / "c"), tmp_path / "s"), tmp_path / "s", config=config
    )
    published = publish(store, config, SPLITS, tmp_path / "out", "flow")
    assert published.rejects == {"untagged": 7}
    assert sum(published.tags.values()) == 5


def test_a_row_in_both_formats_needs_no_tag_and_is_the_last_to_get_one(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    half = CONFIG.model_copy(update={"paired_share": 0.5})
    train = store.table(["id"], "split = 'train'")["id"].to_pylist()
    unpaired = {name for name in train if not is_paired(name, half)}
    assert 2 < len(unpaired) < 10
    config = half.model_copy(update={"tag_rows": len(unpaired) - 1})
    assert set(choose_rows(objective_rows(store), config.tag_rows)["id"].to_pylist()) < unpaired
    published = publish(
        tagged(store, tmp_path / "s", config=config), config, SPLITS, tmp_path / "out", "flow"
    )
    assert published.rejects == {"untagged": 1}
    assert sum(published.tags.values()) == len(unpaired) - 1


def test_an_attempt_that_failed_rejects_its_row_with_the_engines_words(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    [first, second, *_] = store.table(["id"], "split = 'train'")["id"].to_pylist()

    def fails(reply: Reply) -> Reply | None:
        if reply.id == first and reply.number == 0:
            return replace(reply, error="too long")
        return None if reply.id == second and reply.number == 1 else reply

    found = {
        row["id"]: row
        for row in rows_of(tagged(store, tmp_path / "s", change=fails), "reason <> ''")
    }
    assert {
        name: (row["reason"], row["detail"], row["mode_reason"]) for name, row in found.items()
    } == {
        first: ("rollout_failed", "too long", "untagged"),
        second: ("rollout_failed", "", "untagged"),
    }


def test_rows_that_the_engine_refused_do_not_say_that_the_model_cannot_think(
    tmp_path: Path,
) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    first, second, *refused = objective_rows(store)["id"].to_pylist()

    def change(reply: Reply) -> Reply:
        failed = "no room" if reply.id in refused else ""
        thought = reply.id == first and reply.mode == Mode.THINKING and reply.number < 2
        return replace(reply, verdict="right" if thought else "wrong", error=failed)

    tagged(store, tmp_path / "s", change=change)
    found = {row["id"]: row for row in rows_of(store, "split = 'train'")}
    assert all(found[name]["reason"] == "rollout_failed" for name in refused) and len(refused) == 10
    # 2 of 8 thinking attempts are more than luck, 2 of 48 would not be; a model that can think and
    # did not manage is no teacher
    assert (found[first]["tag_rule"], found[second]["tag_rule"]) == (
        "non_thinking_poor",
        "thinking_no_better",
    )


def test_an_attempt_that_was_made_twice_counts_once_whichever_part_is_read_first(
    tmp_path: Path,
) -> None:
    chosen = pa.table({"id": ["a", "b"], "content": ["c", "c"]})
    right = Reply("a", "c", "thinking", 0, 0, "right", 1.0, 5, "x", "")
    wrong = replace(right, verdict="wrong", text="y")
    others = [
        replace(right, content="old"),
        replace(right, number=2),
        replace(wrong, number=1, error="no room"),
    ]
    for parts in ([right], [wrong, *others]), ([wrong], [right, *others]):
        folder = tmp_path / parts[0][0].text
        for at, rollouts in enumerate(parts):
            write_replies(tmp_path / "new", rollouts)
            [made] = (tmp_path / "new").iterdir()
            folder.mkdir(exist_ok=True)
            made.rename(folder / f"part-{at}.parquet")
        assert count_passes(folder, chosen, 2) == {
            "a": Passes(thinking=1, tried=1, error="no room"),
            "b": Passes(),
        }


def test_equal_work_gives_equal_bytes_that_datasets_decodes(tmp_path: Path) -> None:
    import datasets

    for name in "ab":
        scratch = tmp_path / f"s{name}"
        store = tagged(decided(candidate_files(tmp_path / f"c{name}"), scratch), scratch)
        (tmp_path / name).mkdir()
        published = publish(store, CONFIG, SPLITS, tmp_path / name, "flow")
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    assert files and all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    data = datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    assert data["rl"][0]["images"][0].size == (40, 40)
    assert len(read_prompts(tmp_path / "a", "eval")) == published.rows["eval"] == 9
    tags = pq.read_table(tmp_path / "a" / "tags" / "tags.parquet").to_pylist()
    assert len(tags) == 12
    assert {t["tag_rule"] for t in tags if t["mode"] == "thinking"} == {"non_thinking_poor"}
    assert all(0 <= t["tag_low"] <= t["tag_high"] <= 1 for t in tags)
    assert [op["op"] for op in data["train"][0]["ops"]] == [
        "read",
        "check",
        "dedup",
        "fold",
        "tag",
        "trace",
        "mix",
        "format",
    ]


def test_lineage_changes_with_whatever_decides_a_row_and_with_nothing_else() -> None:
    def changed(section: str, **keys: object) -> set[str]:
        section_now = getattr(CONFIG, section).model_copy(update=keys)
        now = lineage(CONFIG.model_copy(update={section: section_now}))
        return {new["op"] for new, old in zip(now, lineage(CONFIG), strict=True) if new != old}

    assert (
        changed("rollouts", concurrency=4)
        == changed("judge", concurrency=4)
        == changed("traces", concurrency=4)
        == set()
    )
    assert (changed("judge", votes=9), changed("traces", samples=9), changed("mix", rows=5)) == (
        {"tag"},
        {"trace"},
        {"mix"},
    )


def test_a_row_without_a_trace_is_not_taught_as_reasoning(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    rows = store.table(["file", "row"], "split = 'train'", "file, row").to_pylist()
    store.update(["trace"], (row | {"trace": " "} for row in rows))
    store = tagged(store, tmp_path / "s")
    easy = store.counts(["level"], "split = 'train'")["easy"]
    assert store.counts(["reason"], "split = 'train'") == {"": easy, "no_trace": 12 - easy}
    assert {
        r["format"]
        for row in rows_of(store, "reason = '' AND split = 'train'")
        for r in training_rows(row, CONFIG)
    } == {"non_thinking"}


def test_a_split_that_would_be_empty_ends_the_run(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    rows = store.table(["file", "row"], "split = 'rl'", "file, row").to_pylist()
    store.update(["reason"], (row | {"reason": "image_broken"} for row in rows))
    with pytest.raises(
        StarvedError, match=r"no rl question is left: 6 image_broken, e\.g\. .+: image_broken$"
    ):
        publish(store, CONFIG, SPLITS, tmp_path / "out", "flow")
    assert not (tmp_path / "out").exists()


def test_a_degenerate_share_is_said_loudly(tmp_path: Path) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    none_right = tagged(store, tmp_path / "s", {"easy": 0, "mid": 0, "hard": 0})
    (tmp_path / "out").mkdir()
    assert "100 %" in warn_about_share(
        publish(none_right, CONFIG, SPLITS, tmp_path / "out", "flow"), CONFIG
    )


def test_files_do_not_depend_on_how_the_rows_arrive(tmp_path: Path) -> None:
    table = pa.concat_tables([pq.read_table(file) for file in candidate_files(tmp_path / "c")])
    table = pa.concat_tables([table] * 45).combine_chunks()
    assert 2 * GROUP_ROWS < table.num_rows < 3 * GROUP_ROWS
    for name, size in (("one", table.num_rows), ("two", 7)):
        pieces = (table.slice(at, size) for at in range(0, table.num_rows, size))
        assert write_shards(pieces, CANDIDATE_SCHEMA, tmp_path / name, "x") == table.num_rows
    [one], [two] = (list((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert (
        one.name == two.name == "x-00000-of-00001.parquet" and one.read_bytes() == two.read_bytes()
    )


def test_a_source_named_twice_is_one_line() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        plan_draws(CONFIG.model_copy(update={"sources": (SOURCES[0], SOURCES[0])}), 0)


def test_the_store_holds_rows_of_check_for_nobody(tmp_path: Path) -> None:
    [file, *_] = candidate_files(tmp_path / "c")
    checked = [row | {"split": "decontaminate"} for row in pq.read_table(file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(checked, schema=CANDIDATE_SCHEMA), file)
    assert Store([file], tmp_path / "s").counts(["split"]) == {}


def test_rows_come_in_the_same_order_however_few_are_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = decided(candidate_files(tmp_path / "c"), tmp_path / "s")
    columns = ["id", "images", "split", "row", "contamination"]
    whole = [row for batch in store.batches(columns, "split <> 'rl'") for row in batch.to_pylist()]
    monkeypatch.setattr(module, "PART_BYTES", 4000)
    dealt = [row for batch in store.batches(columns, "split <> 'rl'") for row in batch.to_pylist()]
    assert dealt == whole and len(dealt) == 21 and dealt == sorted(dealt, key=lambda row: row["id"])
    assert list(store.batches(columns, "split = 'nowhere'")) == []
    assert [
        path.name for path in (tmp_path / "s").iterdir() if path.name.startswith(".ranges")
    ] == []


def test_what_cannot_be_read_still_belongs_to_its_source(tmp_path: Path) -> None:
    """Two sources may have files of one name; their rejects are told apart and counted where they
    came from.
    """
    rows = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text(
            '{"q": "What is 6 times 7?", "a": "42"}\n{broken\n{"q": "", "a": "1"}\n'
        )
        settings = {
            "path": str(tmp_path / name),
            "columns": {"question": "q", "answer": "a"},
            "name": name,
            "license": "MIT",
        }
        source = SourceConfig.model_validate(settings)
        [shard] = file_shards([source], list_sources([source], tmp_path / f"{name}.json"))
        rows += candidates(list(shard.samples()), shard.split, CONFIG).to_pylist()
    refused = [row for row in rows if row["reason"]]
    assert [(row["source"], row["source_license"], row["source_refs"]) for row in refused] == [
        (name, "MIT", [f"x.jsonl#{at}"]) for name in ("a", "b") for at in (1, 2)
    ]
    assert len({row["id"] for row in rows}) == 6


def test_items_whose_answers_are_withheld_are_compared_and_what_cannot_be_read_is_told(
    tmp_path: Path,
) -> None:
    """Filters stop no item either: it is asked elsewhere, whatever this data wants."""
    lines = {
        "decontaminate": [
            '{"q": "What is 6 times 7?", "a": null}',
            '{"q": "Wie viele Eier sind es denn noch?", "a": ""}',
            "{broken",
        ],
        "train": [
            '{"q": "what is 6 times  7?", "a": "42"}',
            '{"q": "Wie viele Eier sind es denn noch?", "a": "3"}',
        ],
    }
    config, files = CONFIG.model_copy(update={"filter": FilterConfig(max_question=20)}), []
    for split, text in lines.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(text))
        source = SourceConfig(
            path=str(tmp_path / f"{split}.jsonl"),
            columns={"question": "q", "answer": "a"},
            split=split,
        )
        [shard] = file_shards([source], list_sources([source], tmp_path / f"{split}.json"))
        files.append(tmp_path / f"{split}.parquet")
        write_candidates(shard, files[-1], config if split == "decontaminate" else CONFIG)
    store = decided(files, tmp_path / "s")
    found = store.table(["source_refs", "reason", "contamination"]).to_pylist()
    assert [(row["reason"], row["contamination"]["method"]) for row in found] == [
        ("contaminated", "exact question + pixels")
    ] * 2
    warning = warn_about_items(store)
    assert warning.startswith("WARNING: 1 evaluation items")
    assert "decontaminate.jsonl#2: bad_record: Expecting property name" in warning
