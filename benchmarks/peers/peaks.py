"""Memory of a side while it works: what a process needed at most is asked for again and again,
since processes end.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import psutil

POLL = (
    0.5  # seconds; a high-water mark only grows, so nothing but the end of a process can be missed
)


class Peaks(Thread):
    """Watches the processes below this one: `driver` and `worker` are the highest resident memory
    so far, in MiB.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.worker = 0
        self._ended = Event()

    def run(self) -> None:
        while not self._ended.wait(POLL):
            self.look()

    def look(self) -> None:
        """Takes the marks of the processes that are there."""
        for driver in psutil.Process().children():
            self.driver = max(self.driver, high_water(driver.pid))
            for process in driver.children(recursive=True):
                if name_of(process.pid).startswith("ray::"):
                    self.worker = max(self.worker, high_water(process.pid))

    def end(self) -> None:
        self._ended.set()
        self.join()


def high_water(pid: int) -> int:
    """VmHWM of a process in MiB; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM")), 0
    )


def name_of(pid: int) -> str:
    """What a process calls itself; "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
