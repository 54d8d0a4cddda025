"""What a curation says loudly: which split is empty and why."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from bimode.mix_config import MixConfig
from data_curation.mix import leave_out
from data_curation.publishing.alerts import starving
from data_curation.store import Store, write_found
from tests.data_curation.flow import candidate_files, decided

SPLITS = ("train", "rl", "eval")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return candidate_files(tmp_path_factory.mktemp("candidates"))


def rejected(files: list[Path], scratch: Path, reasons: list[str], where: str = "split = 'train'") -> Store:
    """The store after rejecting rows one by one for `reasons`, the others for the last of them."""
    store = decided(files, scratch)
    rows = store.table(["file", "row"], where, "file, row").to_pylist()
    reasons = reasons + reasons[-1:] * (len(rows) - len(reasons))
    found = (row | {"reason": reason} for row, reason in zip(rows, reasons, strict=True))
    store.apply(write_found([("reason", pa.string())], found, scratch / "out.parquet"))
    return store


def test_a_split_that_is_left_empty_is_told_with_all_reasons_and_what_to_do(files: list[Path], tmp_path: Path) -> None:
    store = rejected(files, tmp_path, ["bad_record", "no_trace"])
    line = starving(store, SPLITS)
    assert line.startswith("no train question is left: 11 no_trace, 1 bad_record, e.g. ")
    assert "; name curate.traces.model" in line and "rl" not in line
    assert starving(store, ("rl", "eval")) == ""


def test_sources_without_a_record_are_told_as_such(files: list[Path], tmp_path: Path) -> None:
    only_rl = [file for file in files if Store([file], tmp_path / file.stem).counts(["split"]).get("rl")]
    line = starving(Store(only_rl, tmp_path / "s"), ("train", "rl"))
    assert line == "no train question is left: its sources hold no record"


def test_where_no_train_question_is_left_no_share_of_the_mix_is_to_blame(files: list[Path], tmp_path: Path) -> None:
    """Also in a recipe whose sources feed rl or eval only."""
    store = rejected(files, tmp_path, ["no_trace"])
    found, lines = leave_out(store, MixConfig(), 0, 0.0, tmp_path / "mix.parquet")
    store.apply(found)
    assert lines == () and store.counts(["reason"], "split = 'train'") == {"no_trace": 12}
