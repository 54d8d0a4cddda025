"""What a text file is written in, where that is not UTF-8."""

from __future__ import annotations

import re

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
