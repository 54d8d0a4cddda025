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

    def summary(self) -> str:
        """E.g. ``curate: 12 in train, 3 in eval; 6 rejected (3 duplicate, 3 bad_record)``."""
        rows = ", ".join(f"{count:,} in {split}" for split, count in self.rows.items())
        by_count = sorted(self.rejects.items(), key=lambda item: (-item[1], item[0]))
        reasons = f" ({', '.join(f'{count:,} {reason}' for reason, count in by_count)})" if by_count else ""
        return f"curate: {rows}; {sum(self.rejects.values()):,} rejected{reasons}"

    @property
    def reasoning_share(self) -> float | None:
        """Thinking tags over all tagged train questions; None where nothing was tagged."""
        total = sum(self.tags.values())
        return self.tags.get("thinking", 0) / total if total else None
