"""An own metrics sink: reward and share of thinking of each step, as CSV.

[track]
to = ["examples.sink:Csv"]
"""

from collections.abc import Mapping
from pathlib import Path


class Csv:
    """Appends a line a step to ``metrics.csv`` in `folder`, which belongs to this sink."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.csv").open("a")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(f"{step},{values.get('reward', values.get('loss', 0.0))}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
