"""Who waited for whom in a step of BPO, in seconds, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

HIGH, LOW = 0.3, 0.1  # shares of a step


@dataclass(frozen=True, slots=True)
class Waits:
    """A stretch of a run. Example: ``Waits(total=4.0, learner=3.1, rollouts=0.2, sync=0.1)``.

    `learner` without a batch; `rollouts` without a lease and `sync` loading weights, both means over the workers.
    """

    total: float
    learner: float
    rollouts: float
    sync: float

    def __add__(self, other: Waits) -> Waits:
        return Waits(
            self.total + other.total, self.learner + other.learner, self.rollouts + other.rollouts, self.sync + other.sync
        )

    def advice(self, workers: int, max_staleness: int) -> str:
        """One line for the user; empty where neither side waits much."""
        total = max(self.total, 1e-9)
        learner, rollouts, sync = (wait / total for wait in (self.learner, self.rollouts, self.sync))
        told = f"learner waited {learner:.0%} of the time, rollout workers {rollouts:.0%}, weights took {sync:.0%}"
        if sync > HIGH:
            return f"{told}: publish less often, or move weights faster (bpo.sync)"
        if learner > HIGH and rollouts < LOW:
            return f"{told}: add rollout workers (bimode scale DIR --rollouts {2 * workers})"
        if rollouts > HIGH and learner < LOW:
            return f"{told}: {max(1, round(workers * (1 - rollouts)))} of {workers} rollout workers would do"
        if learner > HIGH and rollouts > HIGH and not max_staleness:
            return f"{told}: they wait for each other; bpo.max_staleness = 1 lets them work at the same time"
        return told
