"""A row as its author meant it, before it is written into a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.defect_data.words import Problem
from bimode.records import Sample

LEFT_OUT = object()  # the value of a field that the record lacks


@dataclass(frozen=True, slots=True)
class Record:
    """A row and what is true of it.

    E.g. ``Record("row-000017", "which ...", "15", png, "look : ... ; so 15", "digits", "hard",
    shown="4 digits : 3 8 1 0")``.
    """

    key: str
    question: str
    answer: str
    image: bytes | None
    trace: str
    task: str
    level: str
    shown: str = ""  # what the picture shows, in words
    split: str = "train"  # whose handwriting it is
    mode: str = "thinking"  # as the row claims
    kind: str = "sound"
    same: str = ""  # the key of the record that it repeats, varies or leaks
    shard: int = 0
    changed: tuple[tuple[str, Any], ...] = ()  # fields that are written otherwise, or `LEFT_OUT`
    line: str = ""  # what stands in the file instead
    problem: Problem | None = None

    @property
    def values(self) -> list[str]:
        """What is shown, one word a glyph, bar or operator."""
        return self.shown.partition(" : ")[2].split()

    @property
    def pays(self) -> str:
        """The mode that the row's difficulty asks for."""
        return "thinking" if self.level == "hard" else "non_thinking"


def from_sample(sample: Sample, key: str) -> Record:
    """A record of one of the families' samples."""
    image = sample.images[0] if sample.images else None
    made = Record(
        key,
        sample.question,
        sample.answer,
        image,
        sample.trace,
        sample.task,
        sample.level,
        sample.transcription,
        sample.split,
    )
    return replace(made, mode=made.pays)


def from_problem(problem: Problem, key: str) -> Record:
    """A record of a word problem; two steps are for the head."""
    level = {2: "easy", 3: "mid"}.get(len(problem.steps), "hard")
    made = Record(
        key,
        problem.question,
        problem.answer,
        None,
        problem.trace,
        "word_problem",
        level,
        problem=problem,
    )
    return replace(made, mode=made.pays)
