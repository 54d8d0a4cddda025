"""F3, handwritten arithmetic: real digit glyphs joined by drawn operators, worked out from left to
right modulo 23.
"""

from __future__ import annotations

import json
from functools import cache

from bimode.records import Sample
from data_curation.demo import canvas
from data_curation.demo.digits import draw_glyph

QUESTIONS = (
    "compute the expression from left to right ; what is the remainder by 23 ?",
    "work out the expression from left to right ; what is its remainder by 23 ?",
)
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b}


def arithmetic_trace(digits: list[int], operators: list[str]) -> tuple[str, int]:
    """The reasoning for an expression and its answer, each step modulo 23."""
    value, steps, shown = digits[0], [str(digits[0])], [str(digits[0])]
    for name, digit in zip(operators, digits[1:], strict=True):
        value = OPERATIONS[name](value, digit) % canvas.MODULUS
        steps.append(f"{name} {digit} > {value}")
        shown.append(f"{name} {digit}")
    read = f"look : {len(digits)} terms : {' '.join(shown)}"
    return f"{read} ; then {' '.join(steps)} ; so {value}", value


@cache
def guess_rate(level: str) -> float:
    """How often the best blind answer is right."""
    digits = range(1, 10)
    return canvas.best_blind(
        level, digits, lambda _, value: [of(value, d) for of in OPERATIONS.values() for d in digits]
    )


def expression(index: int, split: str, seed: int, weights: tuple[float, float, float]) -> Sample:
    """Sample `index` of the family in `split`; up to nine glyphs run over two lines of the
    canvas.
    """
    rng = canvas.rng_of("arithmetic", split, seed, index)
    level, count = canvas.draw_operands(rng, weights)
    # no zeros: a product with one needs no reading
    digits = [int(d) for d in rng.integers(1, 10, count)]
    operators = [str(o) for o in rng.choice(list(OPERATIONS), count - 1)]
    image, refs = canvas.blank(), []
    for k, digit in enumerate(digits):
        ink, ref = draw_glyph(rng, split, digit)
        canvas.put(image, 2 * k, ink)
        refs.append(ref)
        if k < count - 1:
            canvas.put(image, 2 * k + 1, canvas.operator_glyph(operators[k]))
    trace, value = arithmetic_trace(digits, operators)
    following = zip(operators, digits[1:], strict=True)
    shown = " ".join([str(digits[0]), *(f"{name} {digit}" for name, digit in following)])
    return canvas.make_sample(
        "arithmetic",
        index,
        split,
        seed,
        question=str(rng.choice(QUESTIONS)),
        images=(canvas.to_png(image, rng),),
        answer=str(value),
        trace=trace,
        transcription=f"{count} terms : {shown}",
        guess_rate=guess_rate(level),
        domain="expression",
        level=level,
        difficulty=json.dumps({"operands": count}),
        source="scikit-learn/load_digits",
        source_license="CC-BY-4.0",
        source_refs=tuple(refs),
    )
