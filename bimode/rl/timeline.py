"""Spans of who did what when, as Chrome trace events: ui.perfetto.dev and chrome://tracing open the
file, also of a live run.
"""

from __future__ import annotations

import json
import os
import time
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from bimode.storage.run_dir import own_file


class Trace:
    """Appends spans to a file, a track for each actor, from any thread. A run that goes on adds to
    what is there; its tracks carry its process id.

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
