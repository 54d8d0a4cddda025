"""The deepest reason of an error, read from the text of its traceback.

Ray hands on the text of what went wrong in another process. It keeps the error itself only where
that was the one that the task raised, and never what it was raised from.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"
CHAINED = re.compile(f"(?<!\n)\n++({re.escape(CAUSE)}|{re.escape(CONTEXT)})\n+")
HEADER = "ray::"  # begins the line that says in which task of Ray it was
FRAME = re.compile(r"  File |\s+[\^~]+$")  # a file, or the marks below a line of code
HANDED_ON = re.compile(
    rf"^  File |{HEADER}", re.MULTILINE
)  # in an error's text: it came from another process
NAMED = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:: (?P<said>.*))?")
ROW = re.compile(r"^in row (\S.*)$", re.MULTILINE)  # `bimode.errors.RowNote`
PYDANTIC = re.compile(
    r"validation errors? for (?P<of>\S+)\n(?:(?P<field>\S+)\n)?  (?P<said>.*?) \[type=",
    re.DOTALL,
)
VALUE_ERROR = "Value error, "  # pydantic's words for what a validator raised
MAX_SAID = 300  # characters of one message


@dataclass(frozen=True, slots=True)
class Reason:
    """What went wrong. Example: ``Reason("ValueError", "Head size 20 is not supported",
    row="q7")``.
    """

    name: str  # of the error's class, with its module unless that is built in
    said: str  # one line
    row: str = ""  # id of the row in which it was raised, if one is known

    def __str__(self) -> str:
        short = self.name.rpartition(".")[-1]
        row = f" in row {self.row}" if self.row else ""
        return f"{short}: {self.said}{row}"


def reason_of(chain: Sequence[BaseException]) -> Reason:
    """The reason of an error and what Ray wrapped in it, outermost first."""
    handed_on = [text for error in chain if HANDED_ON.search(text := str(error))]
    if handed_on:
        return read_reason(handed_on[-1])
    return read_reason("".join(traceback.format_exception(chain[-1])))


def read_reason(text: str) -> Reason:
    """The reason in the text of a traceback: of an error and what it was raised from, the deepest.

    What was only being handled when another error was raised is said behind that one.
    """
    blocks = CHAINED.split(text.strip())  # the oldest error first, a link between each two
    rows = ROW.findall(text)
    row = rows[0] if rows else ""
    at = len(blocks) - 1
    while at > 0 and blocks[at - 1] == CAUSE:
        at -= 2
    reason = _read_block(blocks[at])
    if at == 0:
        return Reason(reason.name, reason.said, row)
    handled = _read_block(blocks[0])
    return Reason(reason.name, f"{reason.said}, while handling {handled}", row)


def _read_block(block: str) -> Reason:
    """The last thing that one traceback says: the error's class and its message."""
    lines = ROW.sub("", block).strip("\n").splitlines()
    headers = [at for at, line in enumerate(lines) if FRAME.match(line) or HEADER in line]
    rest = lines[headers[-1] + 1 :] if headers else lines
    while len(rest) > 1 and rest[0].startswith("    "):  # a line of code
        rest = rest[1:]
    found = NAMED.fullmatch(rest[0]) if rest else None
    if found is None:
        return Reason("Exception", _one_line(lines[-1] if lines else ""))
    said = "\n".join([found["said"] or "", *rest[1:]])
    invalid = PYDANTIC.search(said)
    if invalid is None:
        return Reason(found["name"], _one_line(said))
    if invalid["said"].startswith(VALUE_ERROR):  # the validator's own
        return Reason("ValueError", _one_line(invalid["said"].removeprefix(VALUE_ERROR)))
    field = f"{invalid['of']}.{invalid['field']}" if invalid["field"] else invalid["of"]
    return Reason("ValueError", _one_line(f"{field}: {invalid['said']}"))


def _one_line(said: str) -> str:
    lines = said.strip().splitlines() or [""]
    line = lines[0].strip()
    return line if len(line) <= MAX_SAID else f"{line[:MAX_SAID]}..."
