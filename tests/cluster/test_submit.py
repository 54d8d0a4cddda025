"""A run as a Ray job on a hand-started cluster of two nodes: the code travels, each role sits on its own node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hand_started import REPO, HandStarted

pytestmark = pytest.mark.ray

NODES = """
import json, sys
from ray.util.state import list_actors, list_nodes
nodes = {node.node_id: list(node.resources_total) for node in list_nodes(sys.argv[1])}
actors = list_actors(sys.argv[1], limit=1000)
print(json.dumps([[actor.class_name, nodes.get(actor.node_id, [])] for actor in actors]))
"""
FLAGS = (
    'stages=["curate", "bpo", "evaluate"]', "curate.rollouts.n=1", "bpo.steps=1", "bpo.rollout_workers=1", "evaluate.workers=1",
    "cluster.rollout_resource=rollout", "cluster.learner_resource=learner",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[HandStarted]:
    with HandStarted(resources='{"learner": 1}', second_node='{"rollout": 1}') as started:
        yield started
    assert started.left() == []


def submit(cluster: HandStarted, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.submit", *words, "--address", cluster.dashboard],
        cwd=REPO, env=cluster.environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_failed_job_is_one_line_and_a_code(cluster: HandStarted, tmp_path: Path) -> None:
    recipe = "pipelines/recipes/smoke.toml"
    failed = submit(cluster, recipe, "--out", str(tmp_path), "--stage", "bpo", "--set", "model.base=/absent")
    assert failed.returncode == 2, "the job's own code"
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: job raysubmit_") and "exit code 2, as its log above says" in last
    assert failed.stdout.count("error: ") == 1 and "which bpo needs" in failed.stdout, "the job's own line was not followed"


@pytest.mark.slow
def test_smoke_runs_to_its_report_with_each_role_on_its_node(cluster: HandStarted, tmp_path: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True).stdout.strip()
    flags = [word for flag in FLAGS for word in ("--set", flag)]
    done = submit(cluster, "pipelines/recipes/smoke.toml", "--out", str(tmp_path / "run"), *flags)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    report = json.loads((tmp_path / "run" / "evaluate" / "report.json").read_text())
    assert set(report["models"]) == {"base", "bpo"}
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["code"].startswith(commit or "files-")
    listed = subprocess.run(
        [sys.executable, "-c", NODES, cluster.dashboard],
        cwd=REPO, env=cluster.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    places: dict[str, set[str]] = {}
    for name, resources in json.loads(listed.stdout.splitlines()[-1]):
        places.setdefault(name, set()).update({"rollout", "learner"} & set(resources))
    assert places["RolloutWorker"] == {"rollout"}
    assert places["LearnerRank"] == {"learner"}
