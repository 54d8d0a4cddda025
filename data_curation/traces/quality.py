"""AL-CoTD's quality scores and the repetition penalty that they set (Skywork R1V, arXiv 2504.05599,
section 3).

    P = min(2, exp(alpha * (1 - (S_v + beta * S_t + gamma * S_I) / (1 + beta + gamma))))

with every score min-max normalized to [0, 1] over the rows of a run. An easy question (low scores)
is answered under P up to 2, which makes its trace short; a demanding one under P near 1. In the
paper GPT-4o gives all scores but image clarity and how sub-scores combine is not said; these here
are proxies of ours that need no other model:

    S_v  vision       (clarity + necessity) / 2. Clarity: mean of log(1 + variance of the Laplacian)
                      and log(pixels), each normalized. Necessity: non-thinking accuracy with the
                      image less that without it, 1 if unknown.
    S_t  text         log(1 + words) + log(1 + numbers) + log(1 + clauses) of the question
    S_I  integration  patterns that ask for image and text together, less patterns that ask to name
                      what is seen (VTIA)

The word lists are English. A row without images has no S_v: its quality is the weighted mean of the
other two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bimode.config.traces import TraceConfig
from bimode.inputs.pictures import open_picture, picture_header
from bimode.storage.dataset import Row
from data_curation.store import with_candidates
from data_curation.tasks import run_tasks

Array = NDArray[np.float64]

ROWS_PER_TASK = 256
RAW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.float64()) for name in ("sharpness", "pixels", "text", "integration")),
    ]
)
MAX_PENALTY = 2.0
NUMBERS = re.compile(r"\d+(?:\.\d+)?")
CLAUSES = re.compile(
    r"[,;:]|\b(?:and|or|but|if|then|because|since|which|that|when|while|after|before|than|whose)\b",
    re.I,
)
DEMANDING = re.compile(
    r"\bwhy\b|\bhow (?!many\b|old\b|big\b)|\bexplain\b|\bcompare|\bprove\b|\bderive\b"
    r"|\bdifference\b|\bratio\b|\bsum\b|\btotal\b"
    r"|\b(?:left|right|top|front|back) of\b|\bin front\b|\bfrom left to"
    r" right\b|\bbetween\b|\bbehind\b|\babove\b|\bbelow\b"
    r"|\bnext to\b|\bfarther\b|\bcloser\b"
    r"|\b(?:angle|triangle|circle|axis|graph|slope|percent|average|median|area|volume|equation"
    r"|probability|remainder|force|velocity|circuit|current|molecule|reaction|cell|gene|enzyme"
    r"|orbit)s?\b",
    re.I,
)
PLAIN = re.compile(
    r"\b(?:what|which|where) (?:is|are) (?:the|this|that|these)\b|\bwhat"
    r" (?:colou?r|animal|object|kind|type|letter|word)\b"
    r"|\bis there\b|\bare there\b|\bname the\b|\bidentify\b|\bwho is\b",
    re.I,
)


def sharpness(images: Sequence[bytes]) -> float:
    """Mean over `images` of the variance of the Laplacian (4 neighbors) of their gray levels
    0-255: low is blurred.

    Raises PictureError for bytes that are no picture.
    """
    variances = []
    for data in images:
        gray = np.asarray(open_picture(data).convert("L"), dtype=np.float64)
        inner = gray[1:-1, 1:-1]
        around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
        variances.append(float((around - 4 * inner).var()))
    return float(np.mean(variances)) if variances else 0.0


def pixels(images: Sequence[bytes]) -> float:
    """Pixels of all `images`; 0 without any."""
    total = 0
    for data in images:
        _, width, height = picture_header(data)
        total += width * height
    return float(total)


def text_score(question: str) -> float:
    """Raw S_t of a question, from 0 up."""
    counts = len(question.split()), len(NUMBERS.findall(question)), len(CLAUSES.findall(question))
    return float(np.log1p(counts).sum())


def integration_score(question: str) -> float:
    """Raw S_I of a question: patterns that ask for reasoning over the image less those that ask
    what is there.
    """
    return float(len(DEMANDING.findall(question)) - len(PLAIN.findall(question)))


def min_max(raw_N: Array) -> Array:
    """`raw_N` on [0, 1] over its finite values, NaN where it is NaN; 1 where all are equal, so that
    nothing is made shorter.
    """
    known = raw_N[np.isfinite(raw_N)]
    if len(known) == 0 or np.ptp(known) == 0.0:
        return np.where(np.isfinite(raw_N), 1.0, np.nan)
    scaled: Array = (raw_N - known.min()) / np.ptp(known)
    return scaled


def vision_scores(sharpness_N: Array, pixels_N: Array, necessity_N: Array) -> Array:
    """Normalized S_v in [0, 1]; NaN for rows without pixels. `necessity_N` in [-1, 1], NaN where
    not known (counted as 1).
    """
    shown = pixels_N > 0
    clear = min_max(np.where(shown, np.log1p(sharpness_N), np.nan))
    large = min_max(np.where(shown, np.log1p(pixels_N), np.nan))
    needed = np.clip(np.where(np.isfinite(necessity_N), necessity_N, 1.0), 0.0, 1.0)
    return min_max(((clear + large) / 2 + needed) / 2)


def repetition_penalty(
    vision_N: Array, text_N: Array, integration_N: Array, alpha: float, beta: float, gamma: float
) -> Array:
    """P of each row from scores in [0, 1]: 1 to 2. NaN in `vision_N` leaves that score out of the
    row's mean.
    """
    seen = np.isfinite(vision_N)
    total = np.where(seen, np.nan_to_num(vision_N), 0.0) + beta * text_N + gamma * integration_N
    weight = seen + beta + gamma
    quality = np.divide(total, weight, out=np.ones_like(total), where=weight > 0)
    penalty: Array = np.minimum(MAX_PENALTY, np.exp(alpha * (1.0 - quality)))
    return penalty


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
