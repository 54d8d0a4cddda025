"""Curated rows -> the sequences a training worker reads, through Ray Data.

Rows are tokenised once and stay in the object store. What each worker reads, and in which order, is a pure plan
(`bimode.strategies.plan_steps`) dealt out by a `DataConfig`, so that equal seeds train on equal batches whatever the
timing, and a run that goes on from a checkpoint reads what it would have read.
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
from bimode.codec import Codec
from bimode.dataset import question_of
from bimode.errors import StarvedError
from bimode.modes import Mode
from bimode.records import TrainingSample

SEQUENCES = pa.schema(
    [
        ("id", pa.string()),
        ("format", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.float32())),
        ("images", pa.list_(pa.binary())),
    ]
)
COLUMNS = ("id", "format", "prompt", "messages", "images")
CHUNK_STEPS = 16  # steps of one worker that a Ray Data task gathers: a task costs milliseconds, a step a few hundred


class Tokenize:
    """Curated rows -> SEQUENCES, for `map_batches(batch_format="pyarrow")`.

    `mask_empty_think`: no loss on ``\\n\\n </think>`` of a non-thinking response (R-4B masks it in pre-training).
    """

    def __init__(self, model_dir: Path, mask_empty_think: bool) -> None:
        self.codec, self.mask_empty_think = Codec(model_dir), mask_empty_think

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._row(row) for row in table.to_pylist()], schema=SEQUENCES)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        images = [image["bytes"] for image in row["images"]]
        token_ids = self.codec.encode_response(row["messages"][-1]["content"])
        empty_think = (self.codec.tokens.direct, self.codec.tokens.close)
        masked = 2 if self.mask_empty_think and token_ids[:2] == empty_think else 0
        return {
            "id": row["id"],
            "format": row["format"],
            "prompt_ids": self.codec.encode_prompt(question_of(row), images),
            "token_ids": token_ids,
            "loss_mask": [0.0] * masked + [1.0] * (len(token_ids) - masked),
            "images": images,
        }


def read_sequences(data: Path, model_dir: Path, mask_empty_think: bool) -> ray.data.MaterializedDataset:
    """The train rows of a curated folder, tokenised, in the object store. Raises StarvedError if there are none."""
    files = [str(path) for path in sorted(data.glob("train-*.parquet"))]
    if not files:
        raise StarvedError(f"{data} holds no train-*.parquet: nothing to anneal on")
    rows = ray.data.read_parquet(files, columns=list(COLUMNS))
    return rows.map_batches(Tokenize(model_dir, mask_empty_think), batch_format="pyarrow").materialize()


class Table:
    """Random access to the rows of a dataset in the object store, in an order that does not depend on its blocks."""

    def __init__(self, rows: ray.data.MaterializedDataset) -> None:
        self.blocks = rows.to_arrow_refs()
        keys = [
            (name, fmt, block, row)
            for block, (ids, formats) in enumerate(ray.get([_keys.remote(ref) for ref in self.blocks]))
            for row, (name, fmt) in enumerate(zip(ids, formats, strict=True))
        ]
        keys.sort()
        self.formats = [fmt for _, fmt, _, _ in keys]
        self.places_R2 = np.array([(block, row) for _, _, block, row in keys], dtype=np.int64).reshape(-1, 2)

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
def _keys(block: pa.Table) -> tuple[list[str], list[str]]:
    return block["id"].to_pylist(), block["format"].to_pylist()


class PlannedFeed(DataConfig):
    """Deals a plan [steps, batch] over the rows of `table`: rank r of W reads columns r, r + W, ... of every step.

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
        return [
            {name: self._shard(plan_SB[:, rank::world_size]) for name in datasets} for rank in range(world_size)
        ]

    def _shard(self, plan_SB: NDArray[np.int64]) -> ray.data.DataIterator:
        chunks = [plan_SB[at : at + CHUNK_STEPS].ravel() for at in range(0, max(len(plan_SB), 1), CHUNK_STEPS)]
        order = ray.data.from_arrow([pa.table({"row": chunk}) for chunk in chunks])
        order.context.execution_options.preserve_order = True
        return order.map_batches(self.table.gather, batch_format="pyarrow", batch_size=None).iterator()


def to_samples(batch: pa.Table) -> list[TrainingSample]:
    """SEQUENCES -> training samples of supervised learning."""
    return [
        TrainingSample(
            prompt_ids=tuple(row["prompt_ids"]),
            token_ids_T=tuple(row["token_ids"]),
            loss_mask_T=tuple(row["loss_mask"]),
            advantages_T=(1.0,) * len(row["token_ids"]),
            behavior_logprobs_T=(float("nan"),) * len(row["token_ids"]),
            images=tuple(row["images"]),
            mode=Mode.THINKING if row["format"] == Mode.THINKING else Mode.NON_THINKING,
            origin=row["id"],
            version=0,
        )
        for row in batch.to_pylist()
    ]
