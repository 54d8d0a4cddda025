"""A run whose Ray has died ends, and says of what: Ray waits for its own processes for ever. A
child stands for the raylet.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bimode.config.recipe import ClusterConfig
from bimode.errors import RayLostError
from cluster import daemons, session


@pytest.fixture
def raylet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """What a start of Ray leaves as a child of this process."""
    import ray

    started: list[psutil.Process] = []

    def start(*_: Any, **__: Any) -> None:
        started.append(
            psutil.Process(subprocess.Popen(["sh", "-c", "tail -f /dev/null & exec sleep 60"]).pid)
        )
        while started[-1].name() != "sleep":
            time.sleep(0.01)

    monkeypatch.setattr(session, "start_local", start)
    monkeypatch.setattr(session, "prepare_process", lambda config: None)
    monkeypatch.setattr(session, "log_folder", lambda: tmp_path)
    monkeypatch.setattr(
        ray, "shutdown", lambda: started[-1].is_running() and started[-1].terminate()
    )
    monkeypatch.setattr(session, "_end", lambda tree, end=session._end: end(tree, 0.1))
    monkeypatch.setattr(daemons, "NAMES", ("sleep",))
    monkeypatch.setattr(daemons, "LOOK_S", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    yield started
    signal.signal(signal.SIGTERM, before)


def test_a_daemon_that_is_killed_ends_the_run_and_is_named(raylet: list[psutil.Process]) -> None:
    says = "^Ray's sleep was killed by SIGKILL, .*; the same command continues$"
    with pytest.raises(RayLostError, match=says), session.connect(ClusterConfig()):
        [agent] = raylet[0].children()
        raylet[0].kill()
        time.sleep(10)
        pytest.fail("the block went on")
    assert not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE, (
        "what the daemon had started stayed behind"
    )


def test_an_end_that_is_meant_is_no_loss(
    raylet: list[psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the daemon's own at the end of the run, nor Ctrl-C while all is well, nor that of
    what a daemon has started.
    """
    monkeypatch.setattr(daemons, "NAMES", ("sleep", "tail"))
    with session.connect(ClusterConfig()):
        time.sleep(0.1)
    with pytest.raises(KeyboardInterrupt), session.connect(ClusterConfig()):
        raise KeyboardInterrupt
    assert not any(child.is_running() for child in raylet)
    time.sleep(0.1)  # in which a watch that went on would interrupt
