"""Nodes that go while a run is at work: one line instead of the end of Ray's own log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Node = Mapping[str, Any]  # as `ray.nodes` has it
LOOK_S = 2.0
END_S = 5.0
NOT_TOLD = ("memory", "object_store_memory", "node:", "accelerator_type:")


@contextmanager
def watched_nodes() -> Iterator[None]:
    """Prints a line on stderr for each node of the connected cluster that goes in the block."""
    import ray
    from ray.exceptions import RayError

    is_over = threading.Event()

    def watch() -> None:
        before: list[Node] = []
        try:
            while not is_over.wait(LOOK_S):
                now = [node for node in ray.nodes() if node["Alive"]]
                for node in before:
                    if node["NodeID"] not in {other["NodeID"] for other in now}:
                        print(lost_line(node, now), file=sys.stderr, flush=True)
                before = now
        except RayError:  # the cluster itself is gone, which the run finds out by itself
            return

    thread = threading.Thread(target=watch, name="ray-nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(END_S)


def lost_line(lost: Node, left: Sequence[Node]) -> str:
    """What a node offered, and what none of `left` offers now."""
    offered = {k: n for k, n in lost["Resources"].items() if not k.startswith(NOT_TOLD)}
    told = " and ".join(f"{amount:g} {name}" for name, amount in offered.items()) or "nothing"
    line = f"cluster: a node is gone ({lost['NodeManagerAddress']}), which offered {told}"
    still = {name for node in left for name in node["Resources"]}
    if missing := " and ".join(name for name in offered if name not in still):
        line += f"; no other node offers {missing}: what needs it waits until one does"
    return line
