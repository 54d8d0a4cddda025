"""What a version of the data holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Counts of a published version: rows by split, rejects by reason, tags of the train questions, rows by format."""

    rows: dict[str, int]
    rejects: dict[str, int]
    tags: dict[str, int]
    formats: dict[str, int]

    @property
    def reasoning_share(self) -> float | None:
        """Thinking tags over all tagged train questions; None where nothing was tagged."""
        total = sum(self.tags.values())
        return self.tags.get("thinking", 0) / total if total else None
