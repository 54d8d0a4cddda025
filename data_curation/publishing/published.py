"""What a version of the data holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

# DIR/curate/unpublished: tags, rejects and page of the last run, where it left a split empty
UNPUBLISHED = "unpublished"


@dataclass(frozen=True, slots=True)
class Published:
    """Counts of a published version: rows by split, rejects by reason, tags of the train questions,
    rows by format.
    """

    rows: dict[str, int]
    rejects: dict[str, int]
    tags: dict[str, int]
    formats: dict[str, int]

    def summary(self) -> str:
        """E.g. ``curate: 12 in train, 3 in eval; 6 rejected (3 duplicate, 3 bad_record)``."""
        rows = ", ".join(f"{count:,} in {split}" for split, count in self.rows.items())
        reasons = f" ({by_reason(self.rejects)})" if self.rejects else ""
        return f"curate: {rows}; {sum(self.rejects.values()):,} rejected{reasons}"

    @property
    def reasoning_share(self) -> float | None:
        """Thinking tags over all tagged train questions; None where nothing was tagged."""
        total = sum(self.tags.values())
        return self.tags.get("thinking", 0) / total if total else None


def by_reason(counts: dict[str, int]) -> str:
    """E.g. ``12 no_trace, 3 bad_record``, the most frequent first."""
    return ", ".join(
        f"{n:,} {reason}"
        for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
