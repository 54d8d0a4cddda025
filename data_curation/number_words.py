"""Numbers as English words, from zero to nine hundred and ninety-nine: one table for questions and
for traces.
"""

from __future__ import annotations

import re

_UNITS = re.findall(r"\w+", "one two three four five six seven eight nine")
_TEENS = re.findall(
    r"\w+", "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
VALUES = {word: value for value, word in enumerate(("zero", *_UNITS, *_TEENS))} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_UNIT = "|".join(_UNITS)
_BELOW_100 = rf"(?:{'|'.join(_TENS)})(?:[- ](?:{_UNIT}))?|{'|'.join(_TEENS)}|{_UNIT}"
SPELLED = re.compile(
    rf"\b(?:(?:(?:{_UNIT})[- ])?hundred(?:[- ](?:and )?(?:{_BELOW_100}))?|{_BELOW_100}|zero)\b"
)


def value_of(words: str) -> int:
    """The value of a match of `SPELLED` in case-folded text: 23 of ``"twenty-three"``, 205 of
    ``"two hundred and five"``.
    """
    value = 0
    for word in re.findall("[a-z]+", words):
        value = 100 * (value or 1) if word == "hundred" else value + VALUES.get(word, 0)
    return value
