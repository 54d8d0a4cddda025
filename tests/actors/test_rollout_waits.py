"""Who waits for whom, and for how long, without Ray."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.rollout.fleet import WorkerHandle
from actors.rollout.loop import Rollouts
from actors.weights.update import Phase, WeightStream
from bimode.rl.timeline import Trace


class Exporting:
    """A learner whose next bucket of weights takes its time."""

    def __init__(self, shared_on: str = "") -> None:
        self.outlet = SimpleNamespace(num_buckets=2, shared_on=shared_on)

    def export(self, version: int, index: int, share: bool) -> Any:
        return SimpleNamespace(missing=lambda: [index])


@pytest.mark.parametrize(("phase", "is_idle"), [(Phase.PREPARE, True), (Phase.TRANSFER, False)])
def test_a_worker_that_waits_for_the_rest_of_the_weights_is_stopped_and_not_idle(
    phase: Phase, is_idle: bool, tmp_path: Path
) -> None:
    member = WorkerHandle("rollout-0", actor=None, has_answered=True)
    fleet: Any = SimpleNamespace(workers=[member], version=1)
    learner: Any = Exporting()
    loop = Rollouts(
        fleet,
        learner,
        SimpleNamespace(max_staleness=1),
        lambda lease: [],
        lambda lease, completions: [],  # type: ignore[arg-type]
        sync_timeout_s=60.0,
        wanted=lambda: 1,
        on_event=print,
        trace=Trace(tmp_path / "trace.json"),
    )
    stream = WeightStream(learner, 1, [member], lambda *_: None)
    stream.updates[member].phase = phase
    loop.sync.streams.append(stream)
    loop._learner_waits = True
    loop._book_idle()
    before = loop._waits.rollouts
    time.sleep(0.05)
    loop._book_idle()
    assert (loop._waits.rollouts - before >= 0.05) is is_idle and (
        loop._waits.rollouts > before
    ) is is_idle


def test_a_bucket_that_is_lent_may_take_what_the_recipe_gives_a_worker() -> None:
    """It may be one large tensor: its worker would be replaced at every version."""
    member = WorkerHandle("rollout-0", actor=None, machine="here")
    learner: Any = Exporting("here")
    stream = WeightStream(learner, 1, [member], lambda *_: None)
    taker = stream.updates[member]
    taker.phase, taker.moved = Phase.TRANSFER, time.monotonic() - 60.0
    assert stream.is_shared and not [*stream.late(120.0)]
    assert [*stream.late(30.0)] == [
        (member, "is late: phase transfer of version 1 is not over after 30 s")
    ]
