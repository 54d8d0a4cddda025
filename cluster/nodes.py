"""Nodes that go while a run is at work: one line instead of the end of Ray's own log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

Resources = Mapping[str, float]
LOOK_S = 2.0
END_S = 5.0
NOT_TOLD = ("memory", "object_store_memory", "node:", "accelerator_type:")


@contextmanager
def watched_nodes() -> Iterator[None]:
    """Prints a line on stderr for each node of the connected cluster that goes in the block."""
    import ray
    from ray.exceptions import RayError

    is_over = threading.Event()

    def alive() -> dict[str, Resources]:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return {f"{node['NodeManagerAddress']} {node['NodeID']}": node["Resources"] for node in nodes}

    def watch() -> None:
        try:
            before = alive()
            while not is_over.wait(LOOK_S):
                now = alive()
                for name in before.keys() - now.keys():
                    address = name.split()[0]
                    print(lost_line(address, before[name], now.values()), file=sys.stderr, flush=True)
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


def lost_line(address: str, lost: Resources, left: Iterable[Resources]) -> str:
    """What a node at `address` offered, and what no node of `left` offers now."""
    told = {name: amount for name, amount in lost.items() if not name.startswith(NOT_TOLD)}
    offered = " and ".join(f"{amount:g} {name}" for name, amount in told.items()) or "nothing"
    line = f"cluster: a node is gone ({address}), which offered {offered}"
    still = {name for node in left for name, amount in node.items() if amount}
    if missing := [name for name in told if name not in still]:
        names = " and ".join(missing)
        line += f"; no other node offers {names}: what needs it waits until one does"
    return line
