"""Fault drills: real damage to a live run at random times, to see it get over it (`bimode bpo ... --chaos KIND`).

    kill-rollout     a rollout worker's process ends
    stall-rollout    a rollout worker stops answering; `bpo.worker_timeout_s` says when that counts
    kill-learner     a rank of the learner group ends
    kill-driver      this process is killed, as by the kernel; the same command goes on

Victims and waiting times come from `cluster.chaos_seed`. Learner and driver are hit once a start, workers again and again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bimode.config import ClusterConfig
from pipelines.progress import say

if TYPE_CHECKING:
    from actors.graph import Graph

ONCE = ("kill-learner", "kill-driver")


@contextmanager
def drill(cluster: ClusterConfig, graph: Graph) -> Iterator[None]:
    """Does damage to `graph` while the block runs; nothing without `cluster.chaos`."""
    if not cluster.chaos:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_run, args=(cluster, graph, over), name="chaos", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _run(cluster: ClusterConfig, graph: Graph, over: threading.Event) -> None:
    chance = random.Random(f"{cluster.chaos}/{cluster.chaos_seed}")
    while not over.wait(chance.expovariate(1 / cluster.chaos_every_s)):
        say(f"chaos: {cluster.chaos} {_damage(cluster.chaos, graph, chance)}".rstrip())
        if cluster.chaos in ONCE:
            return


def _damage(kind: str, graph: Graph, chance: random.Random) -> str:
    """Does it; returns the name of the victim."""
    import ray

    if kind == "kill-driver":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill-learner":
        ray.kill(chance.choice(graph.learner.ranks))
        return ""
    victim = chance.choice(graph.fleet.members)
    if kind == "kill-rollout":
        ray.kill(victim.actor)
    else:
        victim.actor.__ray_call__.remote(lambda _: threading.Event().wait())
    return victim.name
