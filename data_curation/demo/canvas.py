"""One canvas for every family: 40 x 40 gray pixels, a 5 x 5 grid of cells aligned to the model's
patches.

One size for all, so that neither the width of an image nor the wording of a question gives the
difficulty away.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from bimode.records import Sample

SIDE = 40
CELL = 8
GRID = SIDE // CELL
# a prime, so that products never collapse; a blind answer to many operands is right one time in 23
MODULUS = 23
# Operands by level. One is a matter of looking and two of one step, which a tiny model learns to do
# in its head; four and five it has to carry. Three lies between: directly right on some families
# half the time, on questions that nobody can name beforehand, so a choice of mode could not be
# judged there.
LEVELS: dict[str, tuple[int, ...]] = {"easy": (1,), "mid": (2,), "hard": (4, 5)}

OPERATOR_BITMAPS = {
    "+": (
        "........",
        "...##...",
        "...##...",
        ".######.",
        ".######.",
        "...##...",
        "...##...",
        "........",
    ),
    "-": (
        "........",
        "........",
        "........",
        ".######.",
        ".######.",
        "........",
        "........",
        "........",
    ),
    "x": (
        "........",
        ".##..##.",
        "..####..",
        "...##...",
        "...##...",
        "..####..",
        ".##..##.",
        "........",
    ),
}


def rng_of(*key: object) -> np.random.Generator:
    """A generator seeded by `key`, the same in every process."""
    import hashlib

    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def draw_level(
    rng: np.random.Generator, levels: Collection[str], weights: tuple[float, float, float]
) -> str:
    """Draws a level by `weights` (easy, mid, hard)."""
    return str(rng.choice(list(levels), p=np.asarray(weights) / sum(weights)))


def draw_operands(rng: np.random.Generator, weights: tuple[float, float, float]) -> tuple[str, int]:
    """Draws a level by `weights` (easy, mid, hard) and the number of operands inside it."""
    level = draw_level(rng, LEVELS, weights)
    return level, int(rng.choice(LEVELS[level]))


def best_blind(
    level: str, first: Sequence[int], following: Callable[[int, int], Sequence[int]]
) -> float:
    """How often the best blind answer is right at `level`: the largest share that one result has,
    modulo 23.

    All of `first` are equally likely as the first operand, and all of `following(k, value)` as the
    result of step k from `value`.
    """
    best = np.zeros(MODULUS)
    for count in LEVELS[level]:
        share = np.bincount(first, minlength=MODULUS) / len(first)
        for k in range(count - 1):
            reached = np.zeros(MODULUS)
            for value in range(MODULUS):
                results = np.array(following(k, value)) % MODULUS
                np.add.at(reached, results, share[value] / len(results))
            share = reached
        best += share / len(LEVELS[level])
    return float(best.max())


def sampled_blind(answers: Iterable[object]) -> float:
    """The same, of a sample: the share of the most common of `answers`."""
    counts = Counter(answers)
    return max(counts.values()) / counts.total()


@cache
def operator_glyph(name: str) -> np.ndarray:
    """An operator as 8 x 8 ink in [0, 1]."""
    return np.array([[c == "#" for c in row] for row in OPERATOR_BITMAPS[name]], dtype=np.float32)


def blank() -> np.ndarray:
    """An empty canvas, ink in [0, 1]."""
    return np.zeros((SIDE, SIDE), dtype=np.float32)


def put(canvas: np.ndarray, cell: int, ink: np.ndarray) -> None:
    """Draws an 8 x 8 glyph into grid cell `cell` (row-major)."""
    row, col = divmod(cell, GRID)
    canvas[row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL] = ink


def to_png(canvas: np.ndarray, rng: np.random.Generator, noise: float = 0.03) -> bytes:
    """Brightness jitter and sensor noise, then a lossless gray PNG."""
    ink = canvas * rng.uniform(0.75, 1.0) + rng.normal(0.0, noise, canvas.shape)
    pixels = np.clip(np.rint(ink * 255), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode="L").save(buffer, format="PNG")
    return buffer.getvalue()


def make_sample(family: str, index: int, split: str, seed: int, **fields: Any) -> Sample:
    """Makes a sample of a family. What most families share may be left out of `fields`: a generated
    text without an image, its answer compared exactly.
    """
    shared = {
        "id": f"{family}-{split}-{seed}-{index}",
        "images": (),
        "transcription": "",
        "verifier": "exact",
        "verifier_args": "{}",
        "task": family,
        "domain": "text",
        "split": split,
        "source": "generated",
        "source_license": "Apache-2.0",
        "source_refs": (),
    }
    return Sample(**(shared | fields))
