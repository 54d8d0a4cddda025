"""The repetition penalty under which a row's trace is drawn, from scores of its image and question
(`data_curation.traces.quality`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bimode.config.traces import TraceConfig
from bimode.storage.dataset import Row
from data_curation.store import with_candidates
from data_curation.tasks import run_tasks
from data_curation.traces.quality import (
    integration_score,
    min_max,
    pixels,
    repetition_penalty,
    sharpness,
    text_score,
    vision_scores,
)

ROWS_PER_TASK = 256
RAW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.float64()) for name in ("sharpness", "pixels", "text", "integration")),
    ]
)


def raw_scores(files: Sequence[Path], rows: Sequence[Row]) -> pa.Table:
    """Raw quality scores of `rows` (file, row) as RAW_SCHEMA: what can be said of a row without the
    others.
    """
    scored = []
    for row, _ in with_candidates(files, rows, ["id", "images", "question"]):
        images, question = [image["bytes"] for image in row["images"]], row["question"]
        scored.append(
            {
                "id": row["id"],
                "sharpness": sharpness(images),
                "pixels": pixels(images),
                "text": text_score(question),
                "integration": integration_score(question),
            }
        )
    return pa.Table.from_pylist(scored, schema=RAW_SCHEMA)


def score_rows(files: Sequence[Path], chosen: pa.Table) -> pa.Table:
    """`raw_scores` of all of `chosen`, in one Ray Data job."""
    places = chosen.select(["file", "row"]).sort_by([("file", "ascending"), ("row", "ascending")])
    blocks = [places.slice(at, ROWS_PER_TASK) for at in range(0, places.num_rows, ROWS_PER_TASK)]
    scored = run_tasks(blocks, lambda batch: raw_scores(files, batch.to_pylist()))
    return pa.concat_tables(part.cast(RAW_SCHEMA) for part in scored)


def penalties_of(raw: pa.Table, config: TraceConfig) -> dict[str, float]:
    """P of each row by id: scores are normalized over the rows of `raw`. How far a question needs
    its image is not known.
    """
    needed = np.full(raw.num_rows, np.nan)
    vision = vision_scores(raw["sharpness"].to_numpy(), raw["pixels"].to_numpy(), needed)
    text, integration = min_max(raw["text"].to_numpy()), min_max(raw["integration"].to_numpy())
    found = repetition_penalty(vision, text, integration, config.alpha, config.beta, config.gamma)
    return dict(zip(raw["id"].to_pylist(), found.round(4).tolist(), strict=True))
