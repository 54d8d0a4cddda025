"""A start of Ray that a busy machine was too slow for is tried once more, all else surfaces; and
what a run leaves.
"""

from __future__ import annotations

import os
import subprocess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster import session
from cluster.session import segments_of, start_local

ends: list[str] = []
LATE = (
    "The current node timed out during startup. This could happen because some of the raylet failed"
    " to startup"
)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each start comes to, in order: None, or what is raised. What is left of it was not
    needed.
    """
    import ray

    outcomes: list[Any] = []
    ends.clear()

    def init(**settings: Any) -> None:
        assert settings["address"] == "local" and settings["num_cpus"] == 2
        assert (
            settings["_system_config"]["free_objects_batch_size"] == 1
        )  # or buckets of weights pile up for a second
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ends.append("shutdown"))
    monkeypatch.setattr(session, "_end", lambda processes: ends.append("end"))
    return outcomes


def test_what_is_started_has_an_environment_that_this_process_has_not(
    starts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT", "mine")
    monkeypatch.delenv("NEW", raising=False)
    seen = []
    starts[:] = [None]
    monkeypatch.setattr(
        "ray.init", lambda **_: seen.append((os.environ["KEPT"], os.environ["NEW"]))
    )
    start_local({"KEPT": "theirs", "NEW": "1"}, num_cpus=2)
    assert seen == [("theirs", "1")] and os.environ["KEPT"] == "mine" and "NEW" not in os.environ


def test_a_late_start_is_tried_once_more(starts: list[Any]) -> None:
    starts[:] = [Exception(LATE), None, None]
    start_local({}, num_cpus=2)
    assert starts == [None], "and a good one is not"
    assert ends == ["shutdown", "end"], "what is left of the first goes before the second"


@pytest.mark.parametrize(
    "errors", [[Exception(LATE), Exception(LATE)], [ValueError("no such resource")]]
)
def test_a_second_one_and_any_other_error_surfaces(
    starts: list[Any], errors: list[Exception]
) -> None:
    starts[:] = errors
    with pytest.raises(type(errors[-1])) as caught:
        start_local({}, num_cpus=2)
    assert caught.value is errors[-1] and starts == []
    assert ends.count("shutdown") == sum(LATE in str(error) for error in errors), (
        "another error may be of a session that lives"
    )


def test_shared_memory_of_a_process_is_known_while_it_lives() -> None:
    """Its owner may be killed with everyone who would remove it, as the engine of a server is."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    shared = SharedMemory(create=True, size=1)
    try:
        assert segments_of([psutil.Process(), SimpleNamespace(pid=ended.pid)]) == {
            Path("/dev/shm", shared.name)
        }
    finally:
        shared.close()
        shared.unlink()
