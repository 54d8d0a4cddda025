"""A pool of engines over batches of candidates: what attempts, verdicts and traces have in
common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bimode.storage.dataset import Row
from data_curation.store import read_candidates

ROWS_PER_BATCH = 32  # that an engine works on at a time; what an interruption costs
MAX_ERROR = 300  # characters that are kept of why a worker refused a prompt


def run_pool(
    actor: type,
    arguments: tuple[Any, ...],
    batches: Sequence[list[Row]],
    size: int,
    options: Mapping[str, Any],
) -> Iterator[int]:
    """One Ray Data job of `size` actors with the ray.remote options `options`; yields what each
    batch came to, the one column of what the actor returns, in whatever order they finish.
    """
    import ray
    from ray.data import ActorPoolStrategy

    done = ray.data.from_arrow([pa.Table.from_pylist(batch) for batch in batches]).map_batches(
        actor,
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(size=size),
        batch_format="pyarrow",
        batch_size=None,
        **options,
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from batch.column(0).to_pylist()


def with_candidates(
    files: Sequence[Path], wanted: Sequence[Row], columns: Sequence[str]
) -> Iterator[tuple[Row, Row]]:
    """Each of `wanted` (file, row) behind the `columns` of its candidate, file by file."""
    for file in dict.fromkeys(row["file"] for row in wanted):
        of_file = [row for row in wanted if row["file"] == file]
        found = read_candidates(files[file], [row["row"] for row in of_file], columns).to_pylist()
        yield from zip(found, of_file, strict=True)
