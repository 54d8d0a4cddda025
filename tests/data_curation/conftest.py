"""What tests of the judge and of traces share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.curate import CurateConfig, SourceConfig
from bimode.storage.dataset import Row
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.sampling import prompt_job as module
from data_curation.sources.ingest import write_candidates
from data_curation.sources.shards import DrawnShard


def here(
    actor: type, arguments: tuple[Any, ...], batches: Sequence[list[Row]], *_: object
) -> Iterator[int]:
    """In place of Ray Data: the same actor, in this process."""
    worker = actor(*arguments)
    for batch in batches:
        yield from worker(pa.Table.from_pylist(batch)).column(0).to_pylist()


SHARD = DrawnShard(SourceConfig(family="digits"), "train", "train", 0, 6, 0, (0.0, 0.0, 1.0))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_pool", here)


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    write_candidates(SHARD, tmp_path / "made.parquet", CurateConfig())
    return pq.read_table(tmp_path / "made.parquet").cast(CANDIDATE_SCHEMA)
