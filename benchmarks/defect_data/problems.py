"""Word problems drawn from the texts of words.py, and edits of them."""

from __future__ import annotations

import re

import numpy as np

from benchmarks.defect_data.words import (
    ASIDES,
    EVAL,
    ITEMS,
    MONTHS,
    NAMES,
    OPERATIONS,
    PLACES,
    SHELLS,
    SYNONYMS,
    TRAIN,
    Part,
    Problem,
)


def problem(rng: np.random.Generator, part: Part) -> Problem:
    """A problem of `part` with two asides, 30 to 70 words."""
    pool = TRAIN if part == "train" else EVAL
    scenario = pool[int(rng.integers(len(pool)))]
    asides = [str(aside) for aside in rng.choice(ASIDES[part], 2, replace=False)]
    body, ask = str(rng.choice(scenario.bodies)), str(rng.choice(scenario.asks))
    template = " ".join(
        [asides[0], body, asides[1], ask] if rng.random() < 0.5 else [body, *asides, ask]
    )
    name, other = (str(n) for n in rng.choice(NAMES, 2, replace=False))
    slots = {
        "name": name,
        "other": other,
        "place": str(rng.choice(PLACES)),
        "item": str(rng.choice(ITEMS)),
        "month": str(rng.choice(MONTHS)),
        "hour": str(rng.integers(2, 12)),
        "extra": str(rng.integers(2, 30)),
    }
    numbers = draw_numbers(rng, scenario.steps, scenario.at_most)
    return fill(template, scenario.steps, tuple(slots.items()), numbers)


def draw_numbers(rng: np.random.Generator, steps: tuple[str, ...], at_most: int) -> tuple[int, ...]:
    """Numbers for `steps` whose running value stays above zero."""
    while True:
        numbers = tuple(int(n) for n in rng.integers(3, at_most + 1, len(steps)))
        if min(running(steps, numbers)) > 0:
            return numbers


def running(steps: tuple[str, ...], numbers: tuple[int, ...]) -> list[int]:
    """The value after each step: ``(("a", "x b", "- c"), (4, 5, 6))`` gives ``[4, 20, 14]``."""
    values = [numbers[0]]
    for step, number in zip(steps[1:], numbers[1:], strict=True):
        values.append(OPERATIONS[step[0]](values[-1], number))
    return values


def fill(
    template: str,
    steps: tuple[str, ...],
    slots: tuple[tuple[str, str], ...],
    numbers: tuple[int, ...],
) -> Problem:
    """The problem that `template` tells with `numbers`."""
    values = running(steps, numbers)
    letters = dict(zip("abcd", map(str, numbers), strict=False))
    parts = [
        f"{before} {step[0]} {number} = {after}"
        for step, number, before, after in zip(
            steps[1:], numbers[1:], values, values[1:], strict=False
        )
    ]
    trace = f"First {', then '.join(parts)}. The answer is {values[-1]}."
    question = template.format(**dict(slots), **letters)
    return Problem(question, str(values[-1]), trace, template, steps, slots, numbers)


def renumbered(given: Problem, rng: np.random.Generator, how_many: int) -> Problem:
    """`given` with `how_many` of its numbers changed and another answer."""
    while True:
        numbers = list(given.numbers)
        for at in rng.choice(len(numbers), min(how_many, len(numbers)), replace=False):
            numbers[at] = int(
                rng.choice([n for n in range(3, max(given.numbers) + 2) if n != numbers[at]])
            )
        made = fill(given.template, given.steps, given.slots, tuple(numbers))
        if made.answer != given.answer and min(running(given.steps, tuple(numbers))) > 0:
            return made


def edited(text: str, rng: np.random.Generator, least: float = 0.84) -> str:
    """`text` after small edits that leave its meaning: a synonym, other case or punctuation, a
    frame.

    At least `least` of its 3-word shingles stay, so that it counts as the same text at any usual
    threshold.
    """
    while True:
        words = text.split()
        at = [i for i, word in enumerate(words) if word.casefold() in SYNONYMS]
        if at and rng.random() < 0.8:
            swap = int(rng.choice(at))
            words[swap] = SYNONYMS[words[swap].casefold()]
        made = str(rng.choice(SHELLS)).format(" ".join(words))
        if rng.random() < 0.3:
            made = made.lower()
        if rng.random() < 0.3:
            made = re.sub(r"[.,;:?]", "", made)
        if made != text and similarity(made, text) >= least:
            return made


def similarity(one: str, two: str) -> float:
    """Jaccard similarity of 3-word shingles, case and punctuation aside."""
    a, b = ngrams(one, 3), ngrams(two, 3)
    return len(a & b) / len(a | b)


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """Every `n` words in a row of `text`, case and punctuation aside."""
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
