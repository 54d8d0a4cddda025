"""What text may hold: control tokens, control characters, encodings.

A tokenizer looks for its added tokens in any text before anything else, so a question that quotes
``<|im_end|>`` ends its own turn. What counts is the list of the actual tokenizer: its special
tokens, the tags of the modes, the placeholders of images and video, and the ends of a turn.
Curation rejects rows that hold one, prompts and responses are refused where they are encoded, and
the endpoint answers with a 400.

Characters that command a terminal are refused too, and escaped wherever foreign text is printed.
Legal stay the direction marks U+200E, U+200F and U+061C, which Arabic and Hebrew text needs and
which reorder nothing beside them, the byte order mark, and U+2028 and U+2029, which no terminal
obeys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bimode.modes import THINK_CLOSE, THINK_OPEN
from bimode.records import IMAGE_MARKER

MARKS = (
    IMAGE_MARKER,
    THINK_OPEN,
    THINK_CLOSE,
    "<|im_start|>",
    "<|im_end|>",
)  # of every model of ours
PLACEHOLDERS = ("image_token", "video_token", "audio_token")  # attributes of a processor


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer by their names. Picklable.

    Those of `normalized` are looked for in what `normalizer` (of the `tokenizers` package) makes of
    a text, as the tokenizer itself does. Example: ``ControlTokens(("<|im_end|>", "<pad>"))``.
    """

    names: tuple[str, ...] = MARKS
    normalized: tuple[str, ...] = ()
    normalizer: Any = None

    def first_in(self, text: str) -> str:
        """Return the first control token that `text` would become; "" if it is text all through."""
        if found := self._pattern.search(text):
            return found[0]
        if not self.normalized:
            return ""
        found = self._normalized_pattern.search(self.normalizer.normalize_str(text))
        return found[0] if found else ""

    def first_in_turn(self, text: str) -> str:
        """The same of an assistant's turn, which may begin with its think block.

        Example: ``<think>...</think>answer``.
        """
        if not text.startswith(THINK_OPEN):
            return self.first_in(text)
        trace, _, answer = text.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
        return self.first_in(trace) or self.first_in(answer)

    @property
    def settings(self) -> list[object]:
        """All that decides what is found, as JSON has it."""
        return [self.names, self.normalized, repr(self.normalizer)]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of(self.names)

    @cached_property
    def _normalized_pattern(self) -> re.Pattern[str]:
        return _any_of(map(self.normalizer.normalize_str, self.normalized))


OURS = ControlTokens()


def control_tokens(processor: Any) -> ControlTokens:
    """The control tokens of a Hugging Face tokenizer, or of a processor with its tokenizer."""
    tokenizer = getattr(processor, "tokenizer", processor)
    added = tokenizer.added_tokens_decoder.values()
    placeholders = (getattr(processor, name, None) for name in PLACEHOLDERS)
    names = {
        *MARKS,
        *tokenizer.all_special_tokens,
        *(token.content for token in added if token.special),
        *(name for name in placeholders if isinstance(name, str)),
    }
    names.discard("")  # would be found everywhere
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    normalized = [token.content for token in added if token.normalized and token.content in names]
    if normalizer is None:
        normalized = []
    return ControlTokens(tuple(sorted(names)), tuple(sorted(normalized)), normalizer)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """The longest name first, where one begins with another."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f"  # a form feed is the rest of a damaged "\frac"
    r"\x7f-\x9f"  # U+009B begins an escape sequence, as ESC [ does
    # embeddings, overrides and isolates: text is read in another order
    r"\u202a-\u202e\u2066-\u2069"
    r"\ud800-\udfff]"
)
UNPRINTABLE = re.compile(rf"{CONTROL.pattern}|\r")


def printable(text: str) -> str:
    r"""Return `text` with its control characters escaped, e.g. ``\x1b[2J`` or ``\u202e``.

    Line breaks and tabs stay.
    """
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


UTF32 = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
ZERO_BESIDE_ASCII = re.compile(rb"[\t\n\r\x20-\x7e]\x00|\x00[\t\n\r\x20-\x7e]")


def other_encoding(start: bytes) -> str:
    """ "UTF-16" or "UTF-32" of a text that begins with `start`; "" of one that may be UTF-8."""
    if start.startswith(UTF32):
        return "UTF-32"
    if start.startswith(UTF16) or ZERO_BESIDE_ASCII.match(start):
        return "UTF-16"
    return ""
