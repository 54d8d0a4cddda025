"""Spans of who did what when, as Chrome trace events: ui.perfetto.dev and chrome://tracing open the
file, also of a live run. `Waits` sums up who waited for whom in a step, in seconds.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import astuple, dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from bimode.evaluation.statistics import percent
from bimode.rl.transports import can_join
from bimode.storage.run_dir import own_file


class Trace:
    """Appends spans to a file, a track for each actor, from any thread. A run that goes on appends
    to the file; its tracks carry its process id.

    The format leaves the closing bracket of the array out on purpose: a file that was cut off can
    be read.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(path, "a", opener=own_file)
        self._tracks: dict[str, int] = {}
        self._lock = Lock()
        self._offset = time.time() - time.monotonic()
        if path.stat().st_size == 0:
            self._file.write(b"[\n")

    def span(self, track: str, name: str, start: float, end: float, **facts: Any) -> None:
        """`track` did `name` from `start` to `end` (seconds of `time.monotonic`)."""
        with self._lock:
            if track not in self._tracks:
                self._tracks[track] = len(self._tracks)
                self._write(
                    name="thread_name", ph="M", tid=self._tracks[track], args={"name": track}
                )
        microseconds = {
            "ts": round((start + self._offset) * 1e6),
            "dur": round((end - start) * 1e6),
        }
        self._write(name=name, ph="X", tid=self._tracks[track], **microseconds, args=facts)

    def _write(self, **event: Any) -> None:
        self._file.write(json.dumps({"pid": os.getpid(), **event}).encode() + b",\n")


HIGH, LOW = 0.3, 0.1  # shares of a step


@dataclass(frozen=True, slots=True)
class Waits:
    """A stretch of a run. Example: ``Waits(total=4.0, learner=3.1, rollouts=0.2, full=0.0,
    stopped=0.1, transfer=0.05)``.

    `learner` was without a batch. The others are means over the rollout workers: without work while
    the learner waited for a batch (`rollouts`) or while it had one, since no more may be under way
    (`full`); stopped by new weights (`stopped`), part of which is the transfer itself (`transfer`).
    """

    total: float = 0.0
    learner: float = 0.0
    rollouts: float = 0.0
    full: float = 0.0
    stopped: float = 0.0
    transfer: float = 0.0

    def __add__(self, other: Waits) -> Waits:
        return Waits(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def over(self, workers: int) -> Waits:
        """Sums over `workers` as means."""
        parts = (self.rollouts, self.full, self.stopped, self.transfer)
        return Waits(self.total, self.learner, *(part / max(workers, 1) for part in parts))

    def shares(self) -> Waits:
        """As parts of the whole, which is then 1."""
        return Waits(*(part / max(self.total, 1e-9) for part in astuple(self)))

    def change(self, max_staleness: int) -> int:
        """Rollout workers more (1) or fewer (-1) that would help, else 0. At `max_staleness = 0`
        both sides take turns, however many workers there are: that these wait for the learner then
        says nothing against more.
        """
        share = self.shares()
        if share.learner > HIGH and (share.full < LOW or not max_staleness):
            return 1
        return -1 if share.full > HIGH and share.learner < LOW else 0

    def advice(self, workers: int, max_staleness: int, room: int, sync: str) -> str:
        """One line for the user: the shares, and where either side waits much, what would help;
        `room` is for so many workers. No worker joins a live run whose `sync` fixes them.
        """
        share = self.shares()
        told = (
            f"of the time the learner waited {percent(share.learner)}, a rollout worker"
            f" {percent(share.rollouts)} for the others, {percent(share.full)} for the learner,"
            f" {percent(share.stopped)} for new weights"
        )
        if share.stopped > HIGH:
            return f"{told}: fewer, larger steps would help, or a faster bpo.sync"
        if share.learner > HIGH and share.full > HIGH and not max_staleness:
            return (
                f"{told}: they wait for each other; bpo.max_staleness = 1 lets them work at the"
                " same time"
            )
        change = self.change(max_staleness)
        if change > 0 and room <= workers:
            return (
                f"{told}: more rollout workers would help, on more nodes (here: on more cores,"
                " cluster.num_cpus)"
            )
        if change > 0:
            more = min(2 * workers, room)
            live = "; bimode scale while a run lives" if can_join(sync) else ""
            return f"{told}: add rollout workers (next time bpo.rollout_workers = {more}{live})"
        if change < 0:
            return (
                f"{told}: {max(1, round(workers * (1 - share.full)))} of {workers} rollout workers"
                " would do"
            )
        return told
