"""The rows that both sides of benchmarks/curation.py read: pictures of the built-in families with
their questions, in Parquet.

Of 100 rows about 10 repeat an earlier one, with the question in capitals and the same pixels in
other PNG bytes, so that neither texts nor files can be compared as they are; 2 have a question that
is too long and 3 a trace that loops. Beyond PICTURES rows the pictures are asked about again, each
time by another question.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bimode.records import Sample
from data_curation.demo import FAMILIES

FILE_ROWS = 2000
GROUP_ROWS = 500
PICTURES = 20_000
COPIED, LONG, LOOPING = 0.10, 0.02, 0.03
LONG_WORDS = 1500
LOOPS = 16
KINDS = ("digits", "charts", "arithmetic")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "question", "answer", "trace", "task", "level")]
    + [("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])))]
)


def write_rows(folder: Path, rows: int, seed: int) -> set[str]:
    """Writes `rows` rows in files of FILE_ROWS below `folder`; returns the ids of those that have
    to stay.

    What was written before with the same numbers is read back.
    """
    wanted = folder / "stay.json"
    if wanted.exists():
        return set(json.loads(wanted.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    stay, held = [], []
    for at, (row, stays) in enumerate(draw_rows(rows, seed), 1):
        held.append(row)
        stay += [row["id"]] if stays else []
        if len(held) == FILE_ROWS or at == rows:
            file = folder / f"rows-{(at - 1) // FILE_ROWS:05d}.parquet"
            pq.write_table(
                pa.Table.from_pylist(held, SCHEMA),
                file,
                compression="zstd",
                row_group_size=GROUP_ROWS,
            )
            held = []
    wanted.write_text(json.dumps(stay))
    return set(stay)


def draw_rows(rows: int, seed: int) -> Iterator[tuple[dict[str, Any], bool]]:
    """Rows of SCHEMA, and whether each has to stay."""
    pictures: list[Sample] = []
    rng, sampled = random.Random(seed), 0
    for at in range(rows):
        fate = rng.random()
        if fate < COPIED and sampled:
            original = rng.randrange(sampled)
            row, _ = _original(pictures[original % PICTURES], original, seed)
            data = _encoded_anew(row["images"][0]["bytes"])
            yield (
                row
                | {
                    "id": f"row-{at}",
                    "question": row["question"].upper(),
                    "images": [{"bytes": data, "path": ""}],
                },
                False,
            )
            continue
        if sampled < PICTURES:
            pictures.append(
                FAMILIES[KINDS[sampled % len(KINDS)]](sampled, "train", seed, (0.5, 0.25, 0.25))
            )
        row, sound = _original(pictures[sampled % PICTURES], sampled, seed)
        sampled += 1
        yield row | {"id": f"row-{at}"}, sound


def _original(sample: Sample, number: int, seed: int) -> tuple[dict[str, Any], bool]:
    """Question `number`, and whether it is neither too long nor looping; equal numbers give equal
    rows.
    """
    rng = random.Random(f"{seed}-{number}")
    fate, question, trace = rng.random(), sample.question, sample.trace
    if number >= PICTURES:
        question += f" ( question {number // PICTURES} about it )"
    if fate < LONG:
        question += " " + " ".join(f"word{rng.randrange(10**6)}" for _ in range(LONG_WORDS))
    elif fate < LONG + LOOPING:
        trace = " ; ".join([trace] * LOOPS)
    row = {
        "question": question,
        "answer": sample.answer,
        "trace": trace,
        "task": sample.task,
        "level": sample.level,
        "images": [{"bytes": sample.images[0], "path": ""}],
    }
    return row, fate >= LONG + LOOPING


def _encoded_anew(png: bytes) -> bytes:
    """The same pixels without compression."""
    with Image.open(io.BytesIO(png)) as picture:
        out = io.BytesIO()
        picture.save(out, format="PNG", compress_level=0)
        return out.getvalue()
