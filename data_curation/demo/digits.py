"""F1, digit strips: real handwritten digits (UCI optdigits, as shipped by scikit-learn), read as
one number.

Question: the number's remainder by 23. One or two digits are a matter of looking; of four and five
the running remainder ``r -> (10 r + d) mod 23`` has to be carried. The wording never changes with
the length.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from bimode.records import Sample
from data_curation.demo import canvas

QUESTIONS = (
    "read the strip as one number ; what is its remainder by 23 ?",
    "the strip is one number ; what is the remainder by 23 ?",
)
SPLIT_SHARES = {"base": 0.40, "train": 0.30, "rl": 0.10, "eval": 0.20}


@cache
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(int)


@cache
def glyph_indices(split: str) -> tuple[tuple[int, ...], ...]:
    """Indices of the source glyphs of each digit 0-9 that belong to `split`; splits share no
    glyph.
    """
    order = np.random.default_rng(20251123).permutation(len(_glyphs()[1]))
    bounds = np.cumsum([0.0, *SPLIT_SHARES.values()]) * len(order)
    at = list(SPLIT_SHARES).index(split)
    own = order[round(bounds[at]) : round(bounds[at + 1])]
    targets = _glyphs()[1]
    return tuple(tuple(int(i) for i in own if targets[i] == digit) for digit in range(10))


def draw_glyph(rng: np.random.Generator, split: str, digit: int) -> tuple[np.ndarray, str]:
    """One real glyph of `digit` from `split` and its source reference; training splits are jittered
    by sub-pixel shifts.
    """
    index = int(rng.choice(glyph_indices(split)[digit]))
    ink = _glyphs()[0][index]
    if split != "eval":
        ink = _shift(ink, rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
    return ink, f"digits/{index}"


def _shift(ink: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """Bilinear sub-pixel shift with empty borders."""
    padded = np.pad(ink, 1)
    y0, x0 = int(np.floor(dy)), int(np.floor(dx))
    fy, fx = dy - y0, dx - x0

    def at(oy: int, ox: int) -> np.ndarray:
        return np.roll(np.roll(padded, oy, 0), ox, 1)

    mixed = (
        (1 - fy) * (1 - fx) * at(y0, x0)
        + (1 - fy) * fx * at(y0, x0 + 1)
        + fy * (1 - fx) * at(y0 + 1, x0)
        + fy * fx * at(y0 + 1, x0 + 1)
    )
    return mixed[1:-1, 1:-1].astype(np.float32)


def strip_trace(digits: list[int]) -> tuple[str, int]:
    """The reasoning for a strip and its answer."""
    value, steps = digits[0], [str(digits[0])]
    for digit in digits[1:]:
        value = (10 * value + digit) % canvas.MODULUS
        steps.append(f", {digit} > {value}")
    read = f"look : {len(digits)} digits : {' '.join(map(str, digits))} ;"
    return f"{read} then {' '.join(steps)} ; so {value}", value


@cache
def guess_rate(level: str) -> float:
    """How often the best blind answer is right."""
    return canvas.best_blind(level, range(10), lambda _, value: range(10 * value, 10 * value + 10))


def digit_strip(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`."""
    rng = canvas.rng_of("digits", split, seed, index)
    level, count = canvas.draw_operands(rng, weights)
    digits = [int(d) for d in rng.integers(0, 10, count)]
    image, refs = canvas.blank(), []
    for cell, digit in enumerate(digits):
        ink, ref = draw_glyph(rng, split, digit)
        canvas.put(image, cell, ink)
        refs.append(ref)
    trace, value = strip_trace(digits)
    return canvas.make_sample(
        "digits",
        index,
        split,
        seed,
        question=str(rng.choice(QUESTIONS)),
        images=(canvas.to_png(image, rng),),
        answer=str(value),
        trace=trace,
        transcription=f"{count} digits : {' '.join(map(str, digits))}",
        guess_rate=guess_rate(level),
        domain="strip",
        level=level,
        difficulty=json.dumps({"operands": count}),
        source="scikit-learn/load_digits",
        source_license="CC-BY-4.0",
        source_refs=tuple(refs),
    )
