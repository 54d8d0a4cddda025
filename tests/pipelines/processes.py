"""Starting the command line as a user does, interrupting it as a user does, and looking for what it
left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """This environment with the code's root on the path, and without a cluster that happens to be
    named in it.
    """
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {"PYTHONPATH": str(REPO)}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in the repository's root, run to its end."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@dataclass
class Running:
    """A command in a process group of its own, as a shell would start it."""

    words: tuple[str, ...]
    log: Path
    extra: dict[str, str] = field(default_factory=dict)  # of the environment
    tree: list[psutil.Process] = field(default_factory=list)

    def __enter__(self) -> Running:
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *self.words],
                cwd=REPO,
                env=environment() | self.extra,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.note_tree()
        for process in (
            [*self.tree, psutil.Process(self.process.pid)]
            if self.process.poll() is None
            else self.left()
        ):
            process.kill()
        self.process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Fails with the log if the command ends, or `timeout` seconds pass, before `ready()`."""
        end = time.monotonic() + timeout
        while not ready():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[
                -3000:
            ]
            time.sleep(0.2)

    def note_tree(self) -> None:
        """Remembers every descendant of now."""
        if self.process.poll() is None:
            self.tree = psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self, timeout: float = 60.0) -> int:
        """Ctrl-C: SIGINT to the whole group, as a terminal sends it; the exit code."""
        self.note_tree()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout)

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM to the command alone, as systemd, Kubernetes and `kill` send it; the exit
        code.
        """
        self.note_tree()
        self.process.terminate()
        return self.process.wait(timeout)

    def hang_up(self, timeout: float = 60.0) -> int:
        """SIGHUP to the whole group, as a terminal or a connection that is gone sends it; the exit
        code.
        """
        self.note_tree()
        os.killpg(self.process.pid, signal.SIGHUP)
        return self.process.wait(timeout)

    def left(self) -> list[psutil.Process]:
        """Descendants that still run."""
        return [p for p in self.tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
