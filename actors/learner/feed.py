"""What each training worker reads, and in which order.

Tokenized rows (`actors.learner.sequences`) stay in the object store, where Ray Data has put them.
The order is a pure plan (`bimode.learner.strategies.plan_steps`), so that equal seeds train on
equal batches whatever the timing, and a run that goes on from a checkpoint reads what it would have
read. Left out: a set larger than the object store and its spill disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from bimode.learner.strategies import Place

CHUNK_STEPS = 16  # steps whose rows are gathered at once: every gathering looks into every block


class Table:
    """Random access to the rows of a dataset in the object store, in an order that does not depend
    on its blocks.
    """

    def __init__(self, rows: ray.data.MaterializedDataset) -> None:
        self.blocks = rows.to_arrow_refs()
        keys = [
            (*key, block, row)
            for block, found in enumerate(ray.get([_keys.remote(ref) for ref in self.blocks]))
            for row, key in enumerate(found)
        ]
        keys.sort()
        self.rows = [Place(question, fmt, hardness) for question, fmt, _, hardness, *_ in keys]
        self.places_R2 = np.array(
            [(block, row) for *_, block, row in keys], dtype=np.int64
        ).reshape(-1, 2)

    def gather(self, rows: NDArray[np.int64]) -> pa.Table:
        """The rows of these indices, in their order."""
        places = self.places_R2[rows]
        parts, where = [], []
        for block in np.unique(places[:, 0]):
            at = np.flatnonzero(places[:, 0] == block)
            parts.append(ray.get(self.blocks[block]).take(places[at, 1]))
            where.append(at)
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(where)))


@ray.remote(num_cpus=0.5)
def _keys(block: pa.Table) -> list[tuple[str, str, str, float]]:
    return list(
        zip(
            *(block[name].to_pylist() for name in ("question", "format", "id", "hardness")),
            strict=True,
        )
    )


class PlannedFeed:
    """Deals a plan [steps, batch] over the rows of `table`: each rank reads a stretch of every
    step, in which both formats of a question stay together.

    Rows are gathered in the worker's own process, from blocks that lie in its node's object store.
    An executor of Ray Data there would ask for Python's lock all the time, and twice as many steps
    go by without one (docs/experiments/2026-11-25.md).
    """

    def __init__(self, table: Table, plan_SB: NDArray[np.int64]) -> None:
        self.table, self.plan_SB = table, plan_SB

    def batches(self, rank: int, world: int, start: int) -> Iterator[pa.Table]:
        """This rank's share of each step from `start` on."""
        share_SB = np.split(self.plan_SB, world, axis=1)[rank][start:]
        for at in range(0, len(share_SB), CHUNK_STEPS):
            chunk_SB = share_SB[at : at + CHUNK_STEPS]
            rows = self.table.gather(chunk_SB.ravel())
            for step in range(len(chunk_SB)):
                yield rows.slice(step * chunk_SB.shape[1], chunk_SB.shape[1])
