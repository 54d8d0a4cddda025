"""What tests of the judge and of traces share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from bimode.storage.dataset import Row
from data_curation.sampling import prompt_job as module
from data_curation.sampling.prompt_job import PromptJob, PromptWorker


def here(
    files: Sequence[Path], batches: Sequence[list[Row]], job: PromptJob, folder: Path
) -> Iterator[int]:
    """In place of Ray Data: the same actor, in this process."""
    replier = PromptWorker(files, job, folder)
    for batch in batches:
        yield replier(pa.Table.from_pylist(batch))["settled"][0].as_py()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_run_engine", here)
