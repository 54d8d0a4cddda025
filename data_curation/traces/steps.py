"""Steps of arithmetic in a trace, each worked out again: a right answer may stand under a wrong
sum.

Two notations: anyone's (`written_steps`), and that of the built-in families, ``3 + 4 > 7 x 2 > 14 ;
so 14``. There ``>`` gives the result, a step without a first number goes on from the last result,
``a , b`` appends the digit b to a, and everything is modulo the number that the question names.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from data_curation.traces.written_steps import wrong_written_step

SENTENCE_END = re.compile(r"[.?]")
REMAINDER = re.compile(r"\bremainder\b")
DIVISOR = re.compile(r"\bby (\d{1,9})\b")
STEP = re.compile(r"(?:(-?\d{1,18}) )?([-+x,]) (-?\d{1,18}) > (-?\d{1,18})")
SO = re.compile(r";\s*so (-?\d{1,18})\s*\.?\s*$")
GIVES: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "x": operator.mul,
    ",": lambda a, b: 10 * a + b,
}
ANNOTATION = re.compile(r"<<|>>")  # GSM8K's calculator: 48/2 = <<48/2=24>>24


def wrong_step(trace: str, question: str = "") -> str:
    """The first wrong step of `trace`, as it stands there; empty if none is."""
    stated = SO.search(trace)
    if stated and STEP.search(trace):
        return _wrong_in_ours(trace, int(stated[1]), _modulus(question))
    lines = ANNOTATION.sub("\n", trace).splitlines()
    return next((step for line in lines if (step := wrong_written_step(line))), "")


def _modulus(question: str) -> int:
    """The number that `question` wants the remainder by; 0 if it wants none."""
    for sentence in SENTENCE_END.split(question):
        _, *behind = REMAINDER.split(sentence, 1)
        if divisors := DIVISOR.findall("".join(behind)):
            return int(divisors[-1])
    return 0


def _wrong_in_ours(trace: str, stated: int, modulus: int) -> str:
    last = None
    for step in STEP.finditer(trace):
        first = int(step[1]) if step[1] else last
        result = int(step[4])
        if first is not None:
            off = GIVES[step[2]](first, int(step[3])) - result
            if modulus:
                off %= modulus
            if off:
                return step[0] if step[1] else f"{first} {step[0]}"
        last = result
    return f"> {last} ; so {stated}" if stated != last else ""
