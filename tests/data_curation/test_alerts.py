"""What a curation says loudly: what is true in each case, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bimode.config.curate import CurateConfig, SourceConfig
from bimode.config.mix import MixConfig
from bimode.config.traces import TraceConfig
from data_curation.mix import leave_out
from data_curation.publishing.alerts import (
    alerts,
    starving,
    warn_about_files,
    warn_about_share,
    warn_about_sources,
    warn_about_traces,
)
from data_curation.publishing.published import Published
from data_curation.sources.ingest import write_candidates
from data_curation.sources.listing import file_shards, list_sources
from data_curation.store import Store
from pipelines.curate import files_of
from tests.data_curation.flow import CONFIG, candidate_files, decided

SPLITS = ("train", "rl", "eval")
FILES = CurateConfig(
    sources=(SourceConfig(path="a/mine.jsonl", columns={"question": "q", "answer": "a"}),)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return candidate_files(tmp_path_factory.mktemp("candidates"))


def rejected(
    files: list[Path], scratch: Path, reasons: list[str], where: str = "split = 'train'"
) -> Store:
    """The store after rejecting rows one by one for `reasons`, the others for the last of them."""
    store = decided(files, scratch)
    rows = store.table(["file", "row"], where, "file, row").to_pylist()
    reasons = reasons + reasons[-1:] * (len(rows) - len(reasons))
    found = (row | {"reason": reason} for row, reason in zip(rows, reasons, strict=True))
    store.update(["reason"], found)
    return store


def test_a_split_that_is_left_empty_is_told_with_all_reasons_and_what_to_do(
    files: list[Path], tmp_path: Path
) -> None:
    store = rejected(files, tmp_path, ["bad_record", "no_trace"])
    line = starving(store, SPLITS)
    assert line.startswith("no train question is left: 11 no_trace, 1 bad_record, e.g. ")
    assert "; name curate.traces.model" in line and "rl" not in line
    assert starving(store, ("rl", "eval")) == ""


def test_sources_without_a_record_are_told_as_such(files: list[Path], tmp_path: Path) -> None:
    only_rl = [
        file for file in files if Store([file], tmp_path / file.stem).counts(["split"]).get("rl")
    ]
    line = starving(Store(only_rl, tmp_path / "s"), ("train", "rl"))
    assert line == "no train question is left: its sources hold no record"


def test_where_no_train_question_is_left_no_share_of_the_mix_is_to_blame(
    files: list[Path], tmp_path: Path
) -> None:
    """Also in a recipe whose sources feed rl or eval only."""
    store = rejected(files, tmp_path, ["no_trace"])
    assert leave_out(store, MixConfig(), 0, 0.0) == ()
    assert store.counts(["reason"], "split = 'train'") == {"no_trace": 12}


@pytest.mark.parametrize(("thinking", "loud"), [(1, True), (2, False), (6, False), (7, True)])
def test_a_degenerate_reasoning_share_is_said_loudly(thinking: int, loud: bool) -> None:
    published = Published(
        {"train": 10}, {}, {"thinking": thinking, "non_thinking": 10 - thinking}, {}
    )
    assert bool(warn_about_share(published, CONFIG)) is loud


def test_the_fix_of_a_share_is_one_that_the_sources_have() -> None:
    """No key of the recipe decides how hard the questions of a file are."""
    high, low = (
        Published({}, {}, tags, {})
        for tags in ({"thinking": 9, "either": 1}, {"thinking": 1, "non_thinking": 9})
    )
    assert "change curate.level_weights, or check" in warn_about_share(high, CONFIG)
    line = warn_about_share(high, FILES)
    assert (
        "90 % of the tagged" in line
        and "(9 thinking, 1 either, 0 non_thinking)" in line
        and ": add easier questions, or" in line
    )
    assert "level_weights" not in line and "add harder questions" in warn_about_share(low, FILES)
    both = FILES.model_copy(update={"sources": (*FILES.sources, *CONFIG.sources)})
    assert (
        "level_weights, which is for families alone, or add easier questions to the files"
        in warn_about_share(high, both)
    )


def test_questions_that_went_for_want_of_reasoning_are_told_with_what_gives_some() -> None:
    published = Published({}, {"no_trace": 1_200}, {}, {})
    assert "no_trace took 1,200 of" in warn_about_traces(published, FILES)
    assert "name curate.traces.model" in warn_about_traces(published, FILES)
    taught = FILES.model_copy(update={"traces": TraceConfig(model="base")})
    assert "raise curate.traces.samples" in warn_about_traces(published, taught)
    assert warn_about_traces(Published({}, {"duplicate": 3}, {}, {}), FILES) == ""


def test_a_source_of_which_nothing_is_kept_is_told_with_its_reasons(
    files: list[Path], tmp_path: Path
) -> None:
    digits = "scikit-learn/load_digits"
    store = rejected(files, tmp_path, ["bad_record", "duplicate"], f"source = '{digits}'")
    [empty, lost] = warn_about_sources(store, FILES)
    assert empty == "WARNING: source mine holds no record"
    assert (
        lost.startswith(f"WARNING: no row of source {digits} is kept: ")
        and ", 1 bad_record, e.g. " in lost
    )
    assert ": duplicate" in lost, "the example is of the most frequent reason"
    assert alerts(store, Published({}, {}, {}, {}), CONFIG) == (lost,)
    assert warn_about_sources(decided(files, tmp_path / "all"), CONFIG) == []


def test_a_file_of_which_no_row_could_be_used_is_named(tmp_path: Path) -> None:
    """Twelve rejects and exit code 0 said nothing of a file that had broken on its way."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "good.jsonl").write_text('{"q": "3 + 4 ?", "a": "7"}\n{"x": 1}\n')
    (folder / "broken.jsonl").write_text('{"q": "cut off\n' * 12)
    (folder / "empty.jsonl").write_text("\n")
    columns = {"question": "q", "answer": "a"}
    config = CurateConfig(sources=(SourceConfig(path=str(folder), columns=columns),))
    shards = file_shards(
        config.sources, list_sources(config.sources, tmp_path / "s" / "sources.json")
    )
    files = [tmp_path / f"{at}.parquet" for at in range(len(shards))]
    for shard, file in zip(shards, files, strict=True):
        write_candidates(shard, file, config)
    read = files_of(shards)
    assert warn_about_files(Store(files, tmp_path / "scratch"), read) == [
        "WARNING: no row of the file broken.jsonl of source mine could be used: 12 bad_record",
        "WARNING: no row of the file empty.jsonl of source mine could be used: it holds no record",
    ]
    many = [*read, *(("mine", f"{at}.jsonl") for at in range(9))]
    lines = warn_about_files(Store(files, tmp_path / "scratch"), many)
    assert len(lines) == 6 and lines[-1] == "WARNING: nor of 6 more files"
