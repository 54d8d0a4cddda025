"""A trace is a JSON array without its end, whatever happened in between."""

from __future__ import annotations

import json
from pathlib import Path

from bimode.trace import Trace


def events(path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(path.read_text().rstrip(",\n") + "]")
    return found


def test_spans_have_a_track_and_microseconds(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "deep" / "trace.json")
    trace.span("learner", "learn", 1.0, 1.5, step=3)
    trace.span("rollout-0", "lease", 1.25, 2.0)
    trace.span("learner", "learn", 2.0, 2.25, step=4)
    found = events(tmp_path / "deep" / "trace.json")
    assert [e["args"] for e in found if e["ph"] == "M"] == [{"name": "learner"}, {"name": "rollout-0"}]
    spans = [e for e in found if e["ph"] == "X"]
    assert [(e["name"], e["tid"], e["dur"], e["args"]) for e in spans] == [
        ("learn", 0, 500_000, {"step": 3}), ("lease", 1, 750_000, {}), ("learn", 0, 250_000, {"step": 4}),
    ]  # fmt: skip
    starts = [e["ts"] for e in spans]
    assert starts[1] - starts[0] == 250_000 and starts[2] - starts[0] == 1_000_000  # type: ignore[operator]


def test_a_run_that_goes_on_adds_to_it(tmp_path: Path) -> None:
    Trace(tmp_path / "t.json").span("learner", "learn", 1.0, 2.0)
    Trace(tmp_path / "t.json").span("learner", "learn", 3.0, 4.0)
    assert len(events(tmp_path / "t.json")) == 4
