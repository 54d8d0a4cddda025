"""Both ends of the line between a benchmark and a side: a verb goes out on its input, an `Answer`
comes back as JSON.

Standard library and psutil only (psutil at the benchmark's end): a side may run in an environment
that has no bimode.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds that a side has to end by itself: Ray takes its own processes down


class SideError(Exception):
    """A side that ended; one line for the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a side did: seconds of wall time, real tokens (no padding), and seconds of its parts
    where it knows them.
    """

    seconds: float = 0.0
    tokens: int = 0
    parts: dict[str, float] = field(default_factory=dict)


class Line:
    """The side's end. Whatever libraries print goes to standard error from here on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def next(self) -> str:
        """The next verb; empty when the benchmark is done."""
        return sys.stdin.readline().strip()

    def on_event(self, answer: Answer) -> None:
        self._out.write(json.dumps(asdict(answer)) + "\n")
        self._out.flush()


class Side:
    """The benchmark's end: one process tree that runs `module`, and what it needs in memory."""

    def __init__(
        self, name: str, python: str, module: str, words: list[str], env: dict[str, str], log: Path
    ) -> None:
        self.name, self._log = name, log
        with log.open("w") as errors:
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends its sides.
            self._process = subprocess.Popen(
                [python, "-m", module, *words],
                cwd=REPO,
                env=env,
                text=True,
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def answer(self) -> Answer:
        """Waits for an answer. Raises SideError if the side ended instead."""
        text = _pipe(self._process.stdout).readline()
        if not text:
            said = self._log.read_text().strip().splitlines() or ["it said nothing"]
            raise SideError(f"{self.name} ended with code {self._process.wait()}: {said[-1]}")
        return Answer(**json.loads(text))

    def ask(self, verb: str) -> Answer:
        """Sends `verb` and waits for its answer."""
        try:
            _pipe(self._process.stdin).write(verb + "\n")
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            pass  # `answer` tells why
        return self.answer()

    def peaks_mib(self) -> list[float]:
        """Highest resident memory of each process of the tree so far (VmHWM), largest first; each
        counts what they share.
        """
        return sorted(
            (_high_water_kib(process.pid) / 1024 for process in self._tree()), reverse=True
        )

    def close(self) -> None:
        """Ends the tree: by the end of its input, by force where it does not follow or where an
        error is on its way.
        """
        import psutil

        tree = self._tree()
        _pipe(self._process.stdin).close()
        if self._process.poll() is None and not sys.exc_info()[0]:
            psutil.wait_procs(tree, PATIENCE)
        for process in tree:
            if process.is_running():
                process.terminate()
        for process in psutil.wait_procs(tree, PATIENCE)[1]:
            process.kill()

    def _tree(self) -> list[Any]:
        import psutil

        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # both are pipes
    return stream


def _high_water_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it ended meanwhile
    return next(
        (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0
    )
