"""A mapping that fits no record is told before anything starts, and records that differ are no
mistake.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import SourceConfig
from bimode.errors import ConfigError
from data_curation.sources import listing
from data_curation.sources.files import SourceFile
from data_curation.sources.listing import check_layouts, list_sources


def source(path: Path, **changes: object) -> SourceConfig:
    return SourceConfig.model_validate(
        {"path": str(path), "columns": {"question": "q", "answer": "a"}} | changes
    )


def check(tmp_path: Path, *sources: SourceConfig) -> None:
    check_layouts(sources, list_sources(sources, tmp_path / "cache" / "sources.json"))


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_column_that_no_record_has_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    good = lines(tmp_path / "good.jsonl", {"q": "1 + 1 ?", "a": "2"})
    pq.write_table(pa.table({"query": ["1 + 1 ?"], "label": ["2"]}), tmp_path / "bad.parquet")
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, source(good), source(tmp_path / "bad.parquet"))
    assert caught.value.key == "curate.sources.1.columns"
    assert "no column 'a' in the first records of bad.parquet, which have query, label" in str(
        caught.value
    )
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "0.jsonl").write_text("")
    lines(tmp_path / "late" / "1.jsonl", {})
    with pytest.raises(ConfigError, match="which have no column at all"):
        check(tmp_path, source(tmp_path / "late"))
    with pytest.raises(ConfigError, match=r"curate.sources.0.layout = chat: no column"):
        check(tmp_path, source(good, layout="chat", columns={}))


def test_records_that_differ_broken_ones_and_files_without_any_are_no_mistake_of_the_recipe(
    tmp_path: Path,
) -> None:
    mixed = lines(tmp_path / "mixed.jsonl", *[{"other": 1}] * 30, {"q": "1 + 1 ?", "a": "2"})
    (tmp_path / "folder").mkdir()
    lines(tmp_path / "folder" / "0-info.jsonl", {"made": "today"})
    lines(tmp_path / "folder" / "1.jsonl", {"q": "1 + 1 ?", "a": "2"})
    check(tmp_path, source(tmp_path / "folder"))
    (tmp_path / "broken.jsonl").write_text("{broken\n")
    (tmp_path / "empty.jsonl").write_text("")
    pq.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "none.parquet")
    check(
        tmp_path,
        source(mixed),
        *(source(tmp_path / name) for name in ("broken.jsonl", "empty.jsonl", "none.parquet")),
    )


def test_an_optional_column_that_no_record_has_is_told_too(tmp_path: Path) -> None:
    """Else its traces would be missed and its ids replaced without a word."""
    file = lines(
        tmp_path / "a.jsonl",
        {"q": "1 + 1 ?", "a": "2", "cot": "one and one", "uid": 3, "of": {"kind": "sum"}},
    )
    columns = {"question": "q", "answer": "a", "trace": "reasoning", "id": "id", "task": "of.kind"}
    with pytest.raises(
        ConfigError,
        match=r"no column 'reasoning', no column 'id' in .*, which have q, a, cot, uid, of$",
    ):
        check(tmp_path, source(file, columns=columns))
    check(tmp_path, source(file, columns=columns | {"trace": "cot", "id": "uid"}))
    sparse = lines(
        tmp_path / "b.jsonl",
        *[{"q": "1 + 1 ?", "a": "2"}] * 30,
        {"q": "2 + 2 ?", "a": "4", "cot": "two and two"},
    )
    check(tmp_path, source(sparse, columns={"question": "q", "answer": "a", "trace": "cot"}))


def test_a_record_that_is_refused_for_something_else_does_not_make_a_mapping_right(
    tmp_path: Path,
) -> None:
    rows = [
        {"query": None, "label": "1", "photo": b""},
        *({"query": "1 + 1 ?", "label": "2", "photo": b""} for _ in range(9)),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    mapped = {"question": "query", "answer": "label", "images": "image"}
    with pytest.raises(
        ConfigError, match=r"no column 'image' in .*, which have query, label, photo"
    ):
        check(tmp_path, source(tmp_path / "a.parquet", columns=mapped))
    file = lines(
        tmp_path / "b.jsonl",
        {"question": 1, "answer": "#### 1"},
        {"problem": "1 + 1 ?", "answer": "#### 2"},
    )
    with pytest.raises(ConfigError, match=r"layout = gsm8k: no column 'question'"):
        check(tmp_path, source(file, layout="gsm8k", columns={}))


def test_two_sources_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    """By default a name is the last part of the path, and ids begin with it; it is said before a
    file is looked for.
    """
    one, two = source(tmp_path / "a" / "train.jsonl"), source(tmp_path / "b" / "train.jsonl")
    family = SourceConfig(family="digits", name="train")
    with pytest.raises(
        ConfigError,
        match=r"^curate.sources.2.name = train: .*curate.sources.1 .*give each a `name`$",
    ):
        check(tmp_path, family, one, two)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lines(tmp_path / folder / "train.jsonl", {"q": "1 + 1 ?", "a": "2"})
    check(tmp_path, one, source(tmp_path / "b" / "train.jsonl", name="b"))


def test_a_file_that_cannot_be_read_is_told_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all, so it is the digest that fails."""

    def refuse(file: SourceFile) -> str:
        raise ConfigError("curate.sources.path", file.uri, "cannot be read: no permission")

    good = lines(tmp_path / "good.jsonl", {"q": "1 + 1 ?", "a": "2"})
    check(tmp_path, source(good))
    bad = lines(tmp_path / "bad.jsonl", {"q": "1 + 1 ?", "a": "2"})
    monkeypatch.setattr(listing, "content_digest", refuse)
    with pytest.raises(ConfigError, match=r"^curate.sources.1.path = .*bad.jsonl: cannot be read"):
        check(tmp_path, source(good), source(bad))
