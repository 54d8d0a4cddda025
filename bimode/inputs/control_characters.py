"""Characters that command a terminal instead of standing for text.

Curation and readers of a data folder refuse texts that hold one; whatever prints foreign text
escapes them. Legal stay the direction marks U+200E, U+200F and U+061C, which Arabic and Hebrew text
needs and which reorder nothing beside them, the byte order mark, and U+2028 and U+2029, which no
terminal obeys.
"""

from __future__ import annotations

import re

CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f"  # a form feed is what is left of a "\frac"
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
