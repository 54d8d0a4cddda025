"""Asynchrony: the same loop with rollouts up to 4 versions old against one that waits, generation
and learning simulated.

Real actors, leases, weights and ledger. 8 workers with one group at a time each, whose time is
log-normal (median 1 s, sigma 1, at most 20 s); 4 groups a step; the learner takes 1 s a step. The
workload's own bound is 4.6x: with groups always at hand a step takes the learner's second, and
waiting for the slowest of 4 takes 3.6 s more.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.graph_parts import Figure, open_graph, open_loop, question, run
from bimode.modes import Mode
from bimode.records import GenerationRequest

WORKERS, GROUPS, STALENESS, LEARN_S = 8, 4, 4, 1.0
WARM_UP = 5  # steps, in which the queue fills
GOAL = ">= 4.0 and learner busy >= 0.9"


def requests_of(group_id: int) -> list[GenerationRequest]:
    """One group: the engine draws its time from the group."""
    return [GenerationRequest(question(group_id, "digits"), Mode.AUTO, 2, 1.0, 8, seed=group_id)]


def timed(rounds: int, staleness: int, folder: Path) -> dict[str, Any]:
    """Seconds of each step after the warm-up, the share of the time that the learner worked, and
    groups dropped as too old.
    """
    from benchmarks.peers.simulated import SimulatedWorker

    model = Path(__file__).resolve().parents[1] / "assets" / "tiny-base"
    seconds, stale, waited = list[float](), 0, 0.0
    with open_graph(model, WORKERS, SimulatedWorker) as graph:
        graph.generate(
            [r for group_id in range(WORKERS) for r in requests_of(group_id)]
        )  # what a first call loads
        loop = open_loop(
            graph,
            folder,
            requests_of,
            groups_per_step=GROUPS,
            lease_groups=1,
            max_staleness=staleness,
        )
        with loop:
            for step in range(WARM_UP + rounds):
                began = time.perf_counter()
                batch = loop.batch(step)
                time.sleep(LEARN_S)
                ended = loop.mark_trained(batch, step)
                graph.weights.push(step + 1)
                if step >= WARM_UP:
                    seconds.append(time.perf_counter() - began)
                    stale += ended.stale
                    waited += ended.waits.learner
    busy = 1 - waited / sum(seconds)
    return {
        "seconds": [round(s, 2) for s in seconds],
        "total": round(sum(seconds), 1),
        "busy": round(busy, 3),
        "stale": stale,
    }


def benchmark(rounds: int, folder: Path) -> Figure:
    """Both loops, each with actors of its own."""
    waiting = timed(rounds, 0, folder / "sync")
    ahead = timed(rounds, STALENESS, folder / "async")
    print(f"sync: {waiting['total']} s, learner busy {waiting['busy']:.0%}")
    print(
        f"async: {ahead['total']} s, learner busy {ahead['busy']:.0%}, {ahead['stale']} groups"
        " too old"
    )
    return Figure(
        "asynchrony", waiting["total"] / ahead["total"], GOAL, {"sync": waiting, "async": ahead}
    )


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 40, benchmark)
