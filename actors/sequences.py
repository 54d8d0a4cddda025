"""Curated rows <-> the sequences a learner reads: tokenised once by Ray Data, turned into samples by each worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bimode.codec import Codec
from bimode.dataset import TRAIN_COLUMNS, python_rows, question_of
from bimode.errors import StarvedError, under
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.row_check import check_example, short
from bimode.strategies import hardness

SEQUENCES = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),  # id of the candidate that the row was made of
        ("format", pa.string()),
        ("hardness", pa.float64()),  # `bimode.strategies.hardness`
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.float32())),
        ("images", pa.list_(pa.binary())),
    ]
)


class Tokenize:
    """Curated rows -> SEQUENCES, for `map_batches(batch_format="pyarrow")`.

    `mask_empty_think`: no loss on ``\\n\\n </think>`` of a non-thinking response (R-4B masks it in pre-training).
    """

    def __init__(self, model_dir: Path, mask_empty_think: bool) -> None:
        self.codec, self.mask_empty_think = Codec(model_dir), mask_empty_think

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = []
        for row in python_rows(table):
            with under(f"row {short(str(row['id']))}"):
                check_example(row)
                rows.append(self._row(row))
        return pa.Table.from_pylist(rows, schema=SEQUENCES)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        images = [image["bytes"] for image in row["images"]]
        token_ids = self.codec.encode_response(row["messages"][-1]["content"])
        empty_think = (self.codec.tokens.direct, self.codec.tokens.close)
        masked = 2 if self.mask_empty_think and token_ids[:2] == empty_think else 0
        return {
            "id": row["id"],
            "question": next(iter(row["parent_ids"]), row["id"]),
            "format": row["format"],
            "hardness": hardness(row["pass_rate_direct"], row["pass_rate_think"]),
            "prompt_ids": self.codec.encode_prompt(question_of(row), images),
            "token_ids": token_ids,
            "loss_mask": [0.0] * masked + [1.0] * (len(token_ids) - masked),
            "images": images,
        }


def read_sequences(data: Path, model_dir: Path, mask_empty_think: bool) -> ray.data.MaterializedDataset:
    """The train rows of a curated folder, tokenised, in the object store. Raises StarvedError if there are none."""
    files = sorted(path.name for path in data.glob("train-*.parquet"))
    if not files:
        raise StarvedError(f"{data} holds no train-*.parquet: nothing to anneal on")
    # Names in a folder that Ray does not look at: it would take `a?b` in a path for a query, and `format=x` for a column.
    folder = SubTreeFileSystem(str(data.absolute()), LocalFileSystem())
    rows = ray.data.read_parquet(files, filesystem=folder, partitioning=None).select_columns(list(TRAIN_COLUMNS))
    # Actors, not tasks: a process that tokenises first imports for seconds, so there are never more of them than files.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(files))
    return rows.map_batches(
        Tokenize, fn_constructor_args=(model_dir, mask_empty_think), compute=pool, batch_format="pyarrow"
    ).materialize()


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
            versions_T=(0,) * len(row["token_ids"]),
        )
        for row in batch.to_pylist()
    ]
