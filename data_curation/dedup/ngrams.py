"""What two wordings share: words, runs of words, numbers. And by its n-grams, which evaluation item
a text repeats.

A run of words that several evaluation questions have in common is a template and identifies
nothing; a template filled in with other numbers is another item. Templated questions of a few words
cannot be checked this way, and the share of those that can is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

from data_curation.dedup.fingerprints import canonical
from data_curation.number_words import SPELLED, value_of

TEMPLATE_ITEMS = 3  # an n-gram of more evaluation items than this is template wording
# of the content words, or of the numbers, from which on two questions ask about the same thing
SHARED = 0.5
WORD = re.compile(r"\w+")
NUMBER = re.compile(rf"\d+(?:,\d{{3}}(?!\d))*(?:\.\d+)?|{SPELLED.pattern}")
STOP = frozenset(
    re.findall(
        r"\w+",
        """
    a an and answer are as at be by can do does for from give has have how if image in into is
    it its of on or picture please question shown so tell that the their then there these this
    those to was we were what when where which who whose why will with you your
    """,
    )
)


def words(text: str) -> list[str]:
    """The words of `text`, case folded, without punctuation."""
    return WORD.findall(canonical(text))


def numbers(text: str) -> tuple[str, ...]:
    """Every number in `text`, sorted: ``"Twenty-three of 1,200 in 3.5 h"`` gives ``("1200", "23",
    "3.5")``.

    "one" alone is mostly no number ("which one"), so it counts within another only.
    """
    found = []
    for match in NUMBER.finditer(canonical(text)):
        if match[0][0].isdigit():
            found.append(match[0].replace(",", ""))
        elif match[0] != "one":
            found.append(str(value_of(match[0])))
    return tuple(sorted(found))


def runs(text: str, n: int) -> set[int]:
    """64-bit digests of every `n` words in a row of `text`."""
    found = words(text)
    return {
        xxhash.xxh3_64_intdigest(" ".join(found[at : at + n]).encode())
        for at in range(len(found) - n + 1)
    }


def share_subject(one: str, two: str) -> bool:
    """Whether two wordings have half of their content words in common, or half of their numbers;
    half of the longer list.
    """
    if _half(_content_words(one), _content_words(two)):
        return True
    return _half(set(numbers(one)), set(numbers(two)))


def _content_words(text: str) -> set[str]:
    return {word for word in words(text) if word not in STOP and not word.isdigit()}


def _half(one: set[str], two: set[str]) -> bool:
    return bool(one & two) and len(one & two) >= SHARED * max(len(one), len(two))


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the number of rows that have it."""

    key: str
    text: str
    rows: int = 1


class EvaluationRuns:
    """The n-grams that identify evaluation items; `checkable` are the keys of the questions that
    have one.

    Holds 64-bit digests of n-grams, not texts.
    """

    def __init__(self, items: Iterable[Question], n: int) -> None:
        self._n = n
        self._owners: dict[int, list[str]] = {}
        self._numbers: dict[str, tuple[str, ...]] = {}
        count: Counter[int] = Counter()
        for item in items:
            self._numbers[item.key] = numbers(item.text)
            for run in runs(item.text, n):
                count[run] += item.rows
                self._owners.setdefault(run, []).append(item.key)
        self._owners = {
            run: owners for run, owners in self._owners.items() if count[run] <= TEMPLATE_ITEMS
        }
        self.checkable = frozenset(key for owners in self._owners.values() for key in owners)

    def matches(self, questions: Iterable[Question]) -> Iterator[tuple[str, str]]:
        """(key of the question, key of the evaluation question) where they share an n-gram and all
        their numbers.
        """
        for question in questions:
            owners = {
                key for run in runs(question.text, self._n) for key in self._owners.get(run, ())
            }
            own = numbers(question.text) if owners else ()
            yield from ((question.key, key) for key in sorted(owners) if self._numbers[key] == own)
