"""The processes of a local Ray that it cannot do without: where one of them dies, Ray waits for it
for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bimode.errors import RayLostError

NAMES = ("raylet", "gcs_server")
LOOK_S = 0.5


@contextmanager
def ended_with(children: Iterable[Any]) -> Iterator[None]:
    """Ends the block, as SIGTERM does, when one of the daemons among `children` of this process
    dies, and raises RayLostError.
    """
    daemons = {child.pid: name for child in children if (name := _own_name(child)) in NAMES}
    is_over, lost = threading.Event(), list[str]()

    def watch() -> None:
        while not is_over.wait(LOOK_S):
            lost.extend(f"{name} {how}" for pid, name in daemons.items() if (how := how_ended(pid)))
            if lost:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="ray-daemons", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        if lost:
            raise RayLostError(
                f"Ray's {lost[0]}, and the rest of Ray with it; nothing is left running; the same"
                " command continues"
            )


def _own_name(process: Any) -> str:
    """Of a child of this process; nothing of one that is gone, or of a child's child: what a raylet
    starts is called as the raylet is until it has become a worker.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):
        return str(process.name()) if process.ppid() == os.getpid() else ""
    return ""


def how_ended(pid: int) -> str:
    """E.g. `was killed by SIGKILL`; nothing while it lives. Its parent can still wait
    for.
    """
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return "has ended"
    if end is None:
        return ""
    if end.si_code == os.CLD_EXITED:
        return f"ended with exit code {end.si_status}"
    return f"was killed by {signal.Signals(end.si_status).name}"
