"""Curated rows <-> the sequences a learner reads: tokenized once by Ray Data, turned into samples
by each worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from bimode.errors import StarvedError, config_errors
from bimode.inputs.row_check import check_example, short
from bimode.learner.strategies import hardness
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.renderer import Renderer
from bimode.storage.dataset import TRAIN_COLUMNS, question_of, read_file

ROWS = 64  # that are tokenized together
SEQUENCES = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),  # id of the candidate that the row was made of
        ("format", pa.string()),
        ("hardness", pa.float64()),  # `bimode.learner.strategies.hardness`
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.float32())),
        ("images", pa.list_(pa.binary())),
    ]
)


class Tokenize:
    """Files of curated rows -> SEQUENCES, for `map_batches(batch_format="pyarrow")`.

    `mask_empty_think`: no loss on ``\\n\\n </think>`` of a non-thinking response (R-4B masks it in
    pre-training).
    """

    def __init__(self, model_dir: Path, mask_empty_think: bool) -> None:
        self.renderer, self.mask_empty_think = Renderer(model_dir), mask_empty_think

    def __call__(self, files: pa.Table) -> Iterator[pa.Table]:
        """Yield the sequences of `files`, a table with a column `file` of paths."""
        for file in files["file"].to_pylist():
            rows = read_file(Path(file), TRAIN_COLUMNS)
            while some := list(islice(rows, ROWS)):
                yield self.sequences(some)

    def sequences(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Return `rows` as SEQUENCES. Raises an error that names the row of the first that is
        unsound.
        """
        found = []
        for row in rows:
            with config_errors(prefix=f"row {short(str(row['id']))}"):
                check_example(row)
                found.append(self._row(row))
        return pa.Table.from_pylist(found, schema=SEQUENCES)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        images = [image["bytes"] for image in row["images"]]
        token_ids = self.renderer.encode_response(row["messages"][-1]["content"])
        empty_think = (self.renderer.tokens.direct, self.renderer.tokens.close)
        masked = 2 if self.mask_empty_think and token_ids[:2] == empty_think else 0
        return {
            "id": row["id"],
            "question": next(iter(row["parent_ids"]), row["id"]),
            "format": row["format"],
            "hardness": hardness(row["pass_rate_non_thinking"], row["pass_rate_thinking"]),
            "prompt_ids": self.renderer.encode_prompt(question_of(row), images),
            "token_ids": token_ids,
            "loss_mask": [0.0] * masked + [1.0] * (len(token_ids) - masked),
            "images": images,
        }


def read_sequences(
    data: Path, model_dir: Path, mask_empty_think: bool
) -> ray.data.MaterializedDataset:
    """The train rows of a curated folder, tokenized, in the object store. Raises StarvedError if
    there are none.
    """
    files = sorted(str(path) for path in data.absolute().glob("train-*.parquet"))
    if not files:
        raise StarvedError(f"{data} holds no train-*.parquet: nothing to anneal on")
    named = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
    # Actors, not tasks: a process that tokenizes first imports for seconds, so there are never more
    # of them than files.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(files))
    return named.map_batches(
        Tokenize,
        fn_constructor_args=(model_dir, mask_empty_think),
        compute=pool,
        batch_size=1,
        batch_format="pyarrow",
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
