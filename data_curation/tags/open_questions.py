"""Open questions written for this project, with the mode that they should be answered in: what a judge is tried on.

A source like any other (`path = "assets/open-questions.jsonl"`); only the labels are read here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """One line of the file; `label` is `thinking` or `non_thinking`, `answer` one good answer among many."""

    id: str
    question: str
    answer: str
    label: str
    license: str


def read_open_questions(path: Path) -> list[OpenQuestion]:
    """The questions in file order."""
    return [OpenQuestion(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
