"""What tests of the judge and of traces share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from bimode.storage.dataset import Row
from data_curation.sampling import prompt_job as module


def here(
    actor: type, arguments: tuple[Any, ...], batches: Sequence[list[Row]], *_: object
) -> Iterator[int]:
    """In place of Ray Data: the same actor, in this process."""
    worker = actor(*arguments)
    for batch in batches:
        yield from worker(pa.Table.from_pylist(batch)).column(0).to_pylist()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_pool", here)
