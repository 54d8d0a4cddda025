"""An own layout: records of an exam, each with its options in one string.

[[curate.sources]]
path = "exam.jsonl"
layout = "examples.layout:read"
"""

from collections.abc import Callable, Mapping
from typing import Any

from bimode import ParsedRecord


def read(record: Mapping[str, Any], read_image: Callable[[str], bytes]) -> ParsedRecord:
    """Read ``{"q": "Which is even?", "options": "3; 4; 5", "key": "B", "picture": "a.png"}``."""
    images = (read_image(record["picture"]),) if "picture" in record else ()
    choices = tuple(option.strip() for option in record["options"].split(";"))
    trace = record.get("why", "")  # without one a row that needs reasoning is rejected
    return ParsedRecord(record["q"], record["key"], images=images, choices=choices, trace=trace)
