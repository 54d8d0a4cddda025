"""Worked sums in text, for the base model only: what R-4B's language model brings along, a tiny one
has to be taught.

Chains of one to six steps modulo 23 in the notation of the other families' reasoning; ``,`` appends
a digit: ``r -> (10 r + d) mod 23``. Generated, no image, no source object.
"""

from __future__ import annotations

import json

from bimode.records import Sample
from data_curation.demo import canvas

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "x": lambda a, b: a * b,
    ",": lambda a, b: 10 * a + b,
}


def worked_sum(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family; `weights` are ignored, every length is equally likely."""
    rng = canvas.rng_of("tables", split, seed, index)
    count = int(rng.integers(1, 7))
    value = int(rng.integers(0, canvas.MODULUS))
    asked, worked = [str(value)], [str(value)]
    for _ in range(count):
        name, digit = str(rng.choice(list(OPERATIONS))), int(rng.integers(0, 10))
        value = OPERATIONS[name](value, digit) % canvas.MODULUS
        asked.append(f"{name} {digit}")
        worked.append(f"{name} {digit} > {value}")
    answer = " ".join(worked)
    return canvas.make_sample(
        "tables",
        index,
        split,
        seed,
        question=f"work out {' '.join(asked)}",
        answer=answer,
        trace="",
        transcription=answer,
        guess_rate=0.0,
        level="easy",
        difficulty=json.dumps({"operands": count}),
    )
