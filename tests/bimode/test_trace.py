"""A trace is a JSON array without its end, whatever happened in between."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bimode.rl.timeline import Trace


def events(path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(path.read_text().rstrip(",\n") + "]")
    return found


def test_spans_have_a_track_and_microseconds(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "deep" / "trace.json")
    trace.span("learner", "learn", 1.0, 1.5, step=3)
    trace.span("rollout-0", "lease", 1.25, 2.0)
    trace.span("learner", "learn", 2.0, 2.25, step=4)
    found = events(tmp_path / "deep" / "trace.json")
    assert [e["args"] for e in found if e["ph"] == "M"] == [
        {"name": "learner"},
        {"name": "rollout-0"},
    ]
    spans = [e for e in found if e["ph"] == "X"]
    assert [(e["name"], e["tid"], e["dur"], e["args"]) for e in spans] == [
        ("learn", 0, 500_000, {"step": 3}),
        ("lease", 1, 750_000, {}),
        ("learn", 0, 250_000, {"step": 4}),
    ]
    starts = [e["ts"] for e in spans]
    assert starts[1] - starts[0] == 250_000 and starts[2] - starts[0] == 1_000_000  # type: ignore[operator]


def test_a_run_that_goes_on_adds_to_it(tmp_path: Path) -> None:
    Trace(tmp_path / "t.json").span("learner", "learn", 1.0, 2.0)
    Trace(tmp_path / "t.json").span("learner", "learn", 3.0, 4.0)
    assert len(events(tmp_path / "t.json")) == 4


class Slow(dict[str, int]):
    """A thread that has counted is slow to write down what it counted."""

    def __len__(self) -> int:
        found = super().__len__()
        time.sleep(0.01)
        return found


def test_threads_that_begin_at_once_have_tracks_of_their_own(tmp_path: Path) -> None:
    """The learner's thread and the rollouts' both write spans."""
    trace = Trace(tmp_path / "t.json")
    trace._tracks = Slow()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: trace.span(f"rollout-{at // 2}", "lease", 1.0, 2.0), range(16)))
    found = events(tmp_path / "t.json")
    assert sorted(e["tid"] for e in found if e["ph"] == "M") == list(range(8))  # type: ignore[type-var]
    assert len(found) == 24
