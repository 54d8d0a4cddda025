"""A start of Ray that a busy machine was too slow for is tried once more, all else surfaces; what leaves the store."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest

from cluster import session
from cluster.session import start_local

ends: list[str] = []
LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each start comes to, in order: None, or what is raised. What is left of it was not needed."""
    import ray

    outcomes: list[Any] = []
    ends.clear()

    def init(**settings: Any) -> None:
        assert settings["address"] == "local" and settings["num_cpus"] == 2
        if (error := outcomes.pop(0)) is not None:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ends.append("shutdown"))
    monkeypatch.setattr(session, "_end", lambda processes: ends.append("end"))
    return outcomes


def test_a_late_start_is_tried_once_more(starts: list[Any]) -> None:
    starts[:] = [Exception(LATE), None, None]
    start_local(num_cpus=2)
    assert starts == [None], "and a good one is not"
    assert ends == ["shutdown", "end"], "what is left of the first goes before the second"


@pytest.mark.parametrize("errors", [[Exception(LATE), Exception(LATE)], [ValueError("no such resource")]])
def test_a_second_one_and_any_other_error_surfaces(starts: list[Any], errors: list[Exception]) -> None:
    starts[:] = errors
    with pytest.raises(type(errors[-1])) as caught:
        start_local(num_cpus=2)
    assert caught.value is errors[-1] and starts == []
    assert ends.count("shutdown") == sum(LATE in str(error) for error in errors), "another error may be of a session that lives"


@pytest.mark.ray
def test_what_nobody_refers_to_leaves_the_store_at_once(ray_local: Any) -> None:
    """Else all buckets of a weight update are there together (Ray's default frees once a second)."""
    from ray._private.internal_api import memory_summary

    def used() -> int:
        return int(re.search(r"Plasma memory usage (\d+) MiB", memory_summary(stats_only=True))[1])

    before, most = used(), 0
    for _ in range(5):
        bucket = ray_local.put(np.zeros(48 << 20, np.uint8))
        most = max(most, used() - before)
        del bucket
        time.sleep(0.1)
    assert 48 <= most < 3 * 48
