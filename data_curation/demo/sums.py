"""T2, text only in the tiny model's own words: a sum modulo 23, worked out from left to right,
behind numbers that do not matter.

One step is meant for the head, three and four have to be written down. Difficulty is in plain sight
here, as it is in most text: a router that reads the question knows it too. What is held out is the
question: chains by their expression, and sums of one step, of which every split asks for the same
few hundred, by the numbers in front (as digits are known to the image families, and only the
handwriting is new).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache

import numpy as np

from bimode.records import Sample
from data_curation.demo import canvas
from data_curation.demo.arithmetic import arithmetic_trace

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
SPLITS = ("base", "train", "train", "train", "train", "rl", "rl", "eval", "eval", "eval")  # by hash
ONE_STEP = 3  # words of an expression with one operation
GUESS_PROBE = 2000  # expressions from which the most common answer's share is measured


def split_of(question: str) -> str:
    """The one split that `question` belongs to, by its expression where that is a chain, else by
    the numbers in front of it.
    """
    aside, _, rest = question.partition(" ; ")
    asked = rest[: rest.index(" from left to right")]
    expression = asked.removeprefix("work out ").removeprefix("compute ")
    key = expression if len(expression.split()) > ONE_STEP else aside
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return SPLITS[int.from_bytes(digest, "little") % len(SPLITS)]


def written_sum(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`."""
    rng = canvas.rng_of("sums", split, seed, index)
    level = canvas.draw_level(rng, LEVELS, weights)
    while True:
        operands, operators, expression = _draw(rng, level)
        aside = f"{rng.choice(ASIDES)} {' '.join(map(str, rng.integers(0, 10, 5)))} ;"
        question = f"{aside} {str(rng.choice(QUESTIONS)).format(expression=expression)}"
        if split_of(question) == split:
            break
    trace, value = arithmetic_trace(operands, operators)
    return canvas.make_sample(
        "sums",
        index,
        split,
        seed,
        question=question,
        answer=str(value),
        trace=trace,
        guess_rate=guess_rate(level),
        level=level,
        difficulty=json.dumps({"operations": len(operators)}),
        source_refs=(f"sums/{expression}",),
    )


@cache
def guess_rate(level: str) -> float:
    """Share of the most common answer: what the best blind answer scores. One step has few
    expressions, so it is not 1/23.
    """
    rng = canvas.rng_of("sums", level, "guess")
    return canvas.sampled_blind(
        arithmetic_trace(*_draw(rng, level)[:2])[1] for _ in range(GUESS_PROBE)
    )


def _draw(rng: np.random.Generator, level: str) -> tuple[list[int], list[str], str]:
    """Operands, operators and the expression that they spell."""
    counts, names = LEVELS[level]
    while True:
        count = int(rng.choice(counts))
        operands = [int(rng.integers(1, canvas.MODULUS)), *map(int, rng.integers(1, 10, count))]
        operators = [str(o) for o in rng.choice(list(names), count)]
        steps = (f"{o} {n}" for o, n in zip(operators, operands[1:], strict=True))
        if "x" not in names or "x" in operators:  # sums alone can be done in the head
            return operands, operators, " ".join([str(operands[0]), *steps])
