"""A node that goes while a run is at work is one line, which says what the cluster lacks since
then.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import ray

from cluster import nodes
from cluster.nodes import lost_line, watched_nodes
from cluster.session import DRIVER_ENV

HEAD: dict[str, Any] = {
    "NodeID": "a",
    "NodeManagerAddress": "10.0.0.1",
    "Resources": {"CPU": 4.0, "learner": 1.0},
}
SECOND: dict[str, Any] = {
    "NodeID": "b",
    "NodeManagerAddress": "10.0.0.2",
    "Resources": {"CPU": 2.0, "rollout": 1.0},
}


def test_what_no_other_node_offers_is_named() -> None:
    """Object store and memory are every node's, and so is the resource that Ray makes of its
    address.
    """
    rays_own = {"memory": 5e9, "object_store_memory": 1e9, "node:10.0.0.2": 1.0}
    lost = SECOND | {"Resources": {"CPU": 2.0, "rollout": 1.0} | rays_own}
    assert (
        lost_line(lost, [HEAD])
        == "cluster: a node is gone (10.0.0.2), which offered 2 CPU and 1 rollout; no other node"
        " offers rollout: what needs it waits until one does"
    )
    assert (
        lost_line(lost, [HEAD, SECOND])
        == "cluster: a node is gone (10.0.0.2), which offered 2 CPU and 1 rollout"
    )
    assert lost_line(HEAD | {"Resources": {}}, []).endswith("which offered nothing")


def test_a_node_that_goes_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was 25 lines of a raylet's log, twice, and none that said what was missing."""
    alive = {"a", "b"}

    def seen() -> list[dict[str, Any]]:
        return [node | {"Alive": node["NodeID"] in alive} for node in (HEAD, SECOND)]

    monkeypatch.setattr(ray, "nodes", seen)
    monkeypatch.setattr(nodes, "LOOK_S", 0.01)
    with watched_nodes():
        time.sleep(0.1)
        assert capsys.readouterr().err == ""
        alive.discard("b")
        time.sleep(0.1)
        alive.add("b")  # a node that joins is no news
        time.sleep(0.1)
    [line] = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("cluster: a node is gone (10.0.0.2)")
        and "no other node offers rollout" in line
    )
    alive.discard("b")
    time.sleep(0.1)
    assert capsys.readouterr().err == "", "nobody looks behind the block"


@pytest.mark.parametrize(
    "message",
    [
        (
            "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL"
            " by the user or system OOM killer. Last 20 lines of the Raylet logs:\n    [state-dump]"
            " DebugString()"
        ),
        (
            "The node with node id: 29cfc27e and address: 192.0.2.2 and node name: 192.0.2.2 has"
            " been marked dead because the detector has missed too many heartbeats from it. This"
            " can happen"
        ),
        "A worker died or was killed while executing a task by an unexpected system error.",
    ],
)
def test_rays_own_words_for_it_stay_in_its_log(message: str) -> None:
    """As Ray 2.60 prints them, each as one message of many lines."""
    skipped = DRIVER_ENV["RAY_DEDUP_LOGS_SKIP_REGEX"]
    assert re.search(skipped, message) and not re.search(
        skipped, "(autoscaler) no room for a worker"
    )
