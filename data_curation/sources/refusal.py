"""A record that cannot even become a question; it goes to the rejects like every other row that is
out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """E.g. ``Refusal("train-0.jsonl#17", "bad_record", "no column 'query'")``; `reason` is a key of
    `validate.REASONS`.
    """

    ref: str
    reason: str
    detail: str
    source: str = ""  # set where the shard is known
    license: str = ""
