"""Scaling: groups a second of a live loop while its workers go from 1 to 3 and back to 1,
generation simulated.

Real actors, leases, weights and ledger; a group takes a log-normal time of median 1 s
(`benchmarks/peers/simulated.py`), the learner none, and rollouts may be 4 versions old, so that
only workers are short.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.asynchrony import requests_of
from benchmarks.peers.graph_parts import Figure, open_graph, open_loop, run
from bimode.rl.ledger import FILE, read

GROUPS, STALENESS = 2, 4
SIZES = (1, 3, 1)
GOAL = "about 3 with 3 workers, 1 after; nothing lost"


def benchmark(rounds: int, folder: Path) -> Figure:
    """Groups a second with each number of workers, from the step at which they are all there."""
    from benchmarks.peers.simulated import SimulatedWorker

    model = Path(__file__).resolve().parents[1] / "assets" / "tiny-base"
    rates, step = list[float](), 0
    with open_graph(model, SIZES[0], SimulatedWorker) as graph:
        loop = open_loop(
            graph,
            folder,
            requests_of,
            groups_per_step=GROUPS,
            lease_groups=1,
            max_staleness=STALENESS,
        )
        with loop:
            for size in SIZES:
                loop.resize(size)
                timed, began = -1, 0.0
                while timed < rounds:
                    if (
                        timed < 0
                        and len(graph.fleet.workers) == size
                        and all(m.is_ready for m in graph.fleet.workers)
                    ):
                        timed, began = 0, time.perf_counter()
                    batch = loop.batch(step)
                    loop.mark_trained(batch, step)
                    step += 1
                    graph.weights.push(step)
                    timed += timed >= 0
                rates.append(rounds * GROUPS / (time.perf_counter() - began))
                print(f"{size} worker(s): {rates[-1]:.2f} groups/s")
    totals = read(folder / "ledger" / FILE).totals
    counts = totals.counts()
    assert counts["trained"] == step * GROUPS and sum(counts.values()) == totals.started, counts
    return Figure(
        "scaling",
        rates[1] / rates[0],
        GOAL,
        {"groups/s": [round(r, 3) for r in rates], "tickets": counts},
    )


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 40, benchmark)
