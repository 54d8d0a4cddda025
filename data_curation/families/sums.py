"""T2, text only in the tiny model's own words: a sum modulo 23, worked out from left to right, behind numbers nobody asks about.

One step is meant for the head, three and four have to be written down; in this wording the tiny base does not know the one step
yet (docs/notebook.md, 2026-11-25). Difficulty is in plain sight here, as it is in most text: a router that reads the question
knows it too. The expression alone decides the split, so none is in two of them; the numbers in front only keep equal
expressions from being equal questions.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache

import numpy as np

from bimode.records import Sample
from data_curation.families import canvas
from data_curation.families.arithmetic import arithmetic_trace

QUESTIONS = (
    "work out {expression} from left to right ; what is its remainder by 23 ?",
    "compute {expression} from left to right ; what is the remainder by 23 ?",
)
ASIDES = ("strip", "bars", "digits")
LEVELS: dict[str, tuple[tuple[int, ...], str]] = {  # number of operations, and which
    "easy": ((1,), "+-"),
    "mid": ((1,), "x"),
    "hard": ((3, 4), "+-x"),
}
SPLITS = ("base", "train", "train", "train", "train", "rl", "rl", "eval", "eval", "eval")  # an expression's, by its hash
GUESS_PROBE = 2000  # expressions from which the most common answer's share is measured


def split_of(expression: str) -> str:
    """The one split that `expression` belongs to; ``4 x 7`` and ``7 x 4`` share theirs."""
    first, *rest = expression.split()
    key = " ".join(sorted([first, *rest])) if len(rest) == 2 and rest[0] != "-" else expression
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return SPLITS[int.from_bytes(digest, "little") % len(SPLITS)]


def written_sum(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`."""
    rng = canvas.rng_of("sums", split, seed, index)
    level = str(rng.choice(list(LEVELS), p=np.asarray(weights) / sum(weights)))
    operands, operators, expression = _draw(rng, level, split)
    aside = f"{rng.choice(ASIDES)} {' '.join(map(str, rng.integers(0, 10, 5)))} ;"
    trace, value = arithmetic_trace(operands, operators)
    return Sample(
        id=f"sums-{split}-{seed}-{index}", question=f"{aside} {str(rng.choice(QUESTIONS)).format(expression=expression)}",
        images=(), answer=str(value), trace=trace, transcription="", verifier="exact", verifier_args="{}",
        guess_rate=guess_rate(level, split), task="sums", domain="text", level=level,
        difficulty=json.dumps({"operations": len(operators)}), split=split, source="generated",
        source_license="Apache-2.0", source_refs=(f"sums/{expression}",),
    )  # fmt: skip


@cache
def guess_rate(level: str, split: str) -> float:
    """Share of the most common answer: what the best blind answer scores. One step has few expressions, so it is not 1/23."""
    rng = canvas.rng_of("sums", split, level, "guess")
    answers = Counter(arithmetic_trace(*_draw(rng, level, split)[:2])[1] for _ in range(GUESS_PROBE))
    return answers.most_common(1)[0][1] / GUESS_PROBE


def _draw(rng: np.random.Generator, level: str, split: str) -> tuple[list[int], list[str], str]:
    """Operands, operators and the expression that they spell, of the first draw that belongs to `split`."""
    counts, names = LEVELS[level]
    while True:
        count = int(rng.choice(counts))
        operands = [int(rng.integers(1, canvas.MODULUS)), *map(int, rng.integers(1, 10, count))]
        operators = [str(o) for o in rng.choice(list(names), count)]
        steps = (f"{o} {n}" for o, n in zip(operators, operands[1:], strict=True))
        expression = " ".join([str(operands[0]), *steps])
        if split_of(expression) == split and ("x" not in names or "x" in operators):  # sums alone can be done in the head
            return operands, operators, expression
