"""Texts that would command a terminal, or show another order than they have, and those that only
look like them.
"""

from __future__ import annotations

import pytest

from bimode.inputs.text import CONTROL, printable
from pipelines.progress import log_line

HOSTILE = (0, 7, 0x1B, 0x7F, 0x85, 0x9B, 0x9D, 0x202A, 0x202E, 0x2066, 0x2069, 0xD800)


@pytest.mark.parametrize("code", HOSTILE)
def test_what_commands_a_terminal_is_found_and_escaped(code: int) -> None:
    """U+009B is ESC [ in one character; U+202E shows "cod.exe" as "exe.doc"."""
    character = chr(code)
    text = f"a{character}b"
    assert CONTROL.search(text) and character not in printable(text)
    assert printable(text) == f"a{ascii(character)[1:-1]}b"


@pytest.mark.parametrize(
    "text",
    ["a\tb\nc", "\u05d0\u200f!", "\u0627\u061c1", "\ufeffa", "a\u2028b", "\u00a0\u00ad\u200d"],
)
def test_ordinary_text_is_legal_and_printed_as_it_is(text: str) -> None:
    """Marks of direction in Arabic and Hebrew, joiners, a byte order mark."""
    assert not CONTROL.search(text) and printable(text) == text


def test_a_line_on_the_console_obeys_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """An id that clears the screen, one that writes over its line, one that is read backwards."""
    log_line("evaluate: q-1\x9b2J, q-2\rgone, q-3\u202eabc")
    assert capsys.readouterr().err == "evaluate: q-1\\x9b2J, q-2\\rgone, q-3\\u202eabc\n"
