"""No pattern takes longer on a hostile text than on an honest one of its length.

Every pattern of the packages is found by itself and timed on 64 kB of what it looks for, in the
ways in which it is used. A new one that is quadratic fails here before a row of 64 kB costs a
minute of a core.
"""

from __future__ import annotations

import re
from heapq import nlargest

import pytest

from tests.patterns import (
    Used,
    hostile_texts,
    inline_patterns,
    made_patterns,
    seconds_of,
    used_patterns,
)

LENGTH = 1 << 16
SHORT = 1 << 10  # two seconds at LENGTH, if it is quadratic, are half a millisecond here
SUSPECTS = 2  # texts that are tried at LENGTH: those whose short ones took longest
MOST_SECONDS = 2.0  # of a core, which others slow down; a quadratic pattern takes ten or more
NAMED = {  # patterns that stand behind a limit, and what keeps it
    "cluster.submit.TAGS": 20_000,  # LAST_CHARS of a proxy's page
    "pipelines.serve._is_a_name": 200,  # the user's own --name
}
MADE = {  # of texts that no foreign hand writes, or of escaped names
    "bimode.inputs.text._any_of",
    "bimode.models.families.part_of",  # names of parameters
}


def slowest(used: Used, length: int) -> tuple[float, str]:
    """The longest use at `length`, and how its text begins; the suspects are found on short
    texts.
    """
    short = enumerate(hostile_texts(used.pattern, min(SHORT, length)))
    timed = [(seconds_of(used, text, MOST_SECONDS), at) for at, text in short]
    suspects = {at for _, at in nlargest(SUSPECTS, timed)}
    long = enumerate(hostile_texts(used.pattern, length))
    return max(
        (seconds_of(used, text, 1.2 * MOST_SECONDS), text[:20])
        for at, text in long
        if at in suspects
    )


def limit_of(used: Used) -> int:
    return next((most for name, most in NAMED.items() if used.name.startswith(name)), LENGTH)


def test_every_pattern_is_linear_enough() -> None:
    known = [*used_patterns(), *inline_patterns()]
    assert len(known) > 80, "they are no longer found"
    slow = [
        (used.name, *found)
        for used in known
        if (found := slowest(used, limit_of(used)))[0] > MOST_SECONDS
    ]
    assert not slow


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"\bremainder\b[^.?]*\bby (\d{1,9})\b", "search"),
        (r"\d[\d.]*(?:,\d[\d.]*)+%?", "findall"),
        (r"<<.*?>>", "sub"),
    ],
)
def test_quadratic_ones_would_be_found(pattern: str, method: str) -> None:
    """The first three stood in this code."""
    seconds, _ = slowest(Used("x", re.compile(pattern), (method,)), LENGTH)
    assert seconds > MOST_SECONDS


def test_patterns_are_made_of_foreign_text_nowhere() -> None:
    assert made_patterns() == MADE
