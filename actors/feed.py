"""What each training worker reads, and in which order, through Ray Data.

Tokenised rows (`actors.sequences`) stay in the object store. The order is a pure plan (`bimode.strategies.plan_steps`)
dealt out by a `DataConfig`, so that equal seeds train on equal batches whatever the timing, and a run that goes on from a
checkpoint reads what it would have read. Left out: a set larger than the object store and its spill disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.train import DataConfig

from bimode.checkpoints import latest, step_of
from bimode.strategies import Place

CHUNK_STEPS = 16  # steps of one worker that a Ray Data task gathers: a task costs milliseconds, a step a few hundred


class Table:
    """Random access to the rows of a dataset in the object store, in an order that does not depend on its blocks."""

    def __init__(self, rows: ray.data.MaterializedDataset) -> None:
        self.blocks = rows.to_arrow_refs()
        keys = [
            (*key, block, row)
            for block, found in enumerate(ray.get([_keys.remote(ref) for ref in self.blocks]))
            for row, key in enumerate(found)
        ]
        keys.sort()
        self.rows = [Place(question, fmt) for question, fmt, *_ in keys]
        self.places_R2 = np.array([(block, row) for *_, block, row in keys], dtype=np.int64).reshape(-1, 2)

    def gather(self, order: pa.Table) -> pa.Table:
        """Rows in the order of column `row`."""
        places = self.places_R2[order["row"].to_numpy()]
        parts, where = [], []
        for block in np.unique(places[:, 0]):
            at = np.flatnonzero(places[:, 0] == block)
            parts.append(ray.get(self.blocks[block]).take(places[at, 1]))
            where.append(at)
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(where)))


@ray.remote(num_cpus=0.5)
def _keys(block: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(block[name].to_pylist() for name in ("question", "format", "id")), strict=True))


class PlannedFeed(DataConfig):
    """Deals a plan [steps, batch] over the rows of `table`: each rank reads a stretch of every step, in which both formats of a
    question stay together.

    Ray Train asks for the shards each time its workers start, so after a restart they begin where the newest checkpoint ends.
    """

    def __init__(self, table: Table, plan_SB: NDArray[np.int64], checkpoints: Path) -> None:
        super().__init__()
        self.table, self.plan_SB, self.checkpoints = table, plan_SB, checkpoints

    def configure(
        self, datasets: dict[str, Any], world_size: int, worker_handles: Any, worker_node_ids: Any, **_: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        done = latest(self.checkpoints)
        plan_SB = self.plan_SB[step_of(done) if done else 0 :]
        shares = np.split(plan_SB, world_size, axis=1)
        return [{name: self._shard(share_SB) for name in datasets} for share_SB in shares]

    def _shard(self, plan_SB: NDArray[np.int64]) -> ray.data.DataIterator:
        chunks = [plan_SB[at : at + CHUNK_STEPS].ravel() for at in range(0, max(len(plan_SB), 1), CHUNK_STEPS)]
        order = ray.data.from_arrow([pa.table({"row": chunk}) for chunk in chunks])
        order.context.execution_options.preserve_order = True
        return order.map_batches(self.table.gather, batch_format="pyarrow", batch_size=None).iterator()
