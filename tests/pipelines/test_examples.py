"""The examples of own code, all in one run of the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples.reward import PRICE

pytestmark = pytest.mark.ray
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "own"
    command = [sys.executable, "-m", "pipelines.run", "examples/recipe.toml", "--out", str(out)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_rows_come_from_the_own_generator_layout_and_verifier(run: Path) -> None:
    files = sorted((run / "curate" / "data").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    by_source = {row["source"]: row for row in rows}
    assert {"examples/gap", "exam", "places"} <= by_source.keys()
    assert by_source["exam"]["verifier"] == "choice"
    places = by_source["places"]
    assert places["verifier"] == "examples.verifier:grade"
    assert json.loads(places["verifier_args"]) == {"places": 1}


def test_the_sinks_have_every_step_of_both_training_stages(run: Path) -> None:
    for stage in ("anneal", "bpo"):
        lines = (run / stage / "metrics.jsonl").read_text().splitlines()
        table = (run / stage / "track" / "examples.sink.Csv" / "metrics.csv").read_text()
        steps = [str(json.loads(line)["step"]) for line in lines]
        assert [row.split(",")[0] for row in table.splitlines()] == steps and len(steps) == 2
        assert list((run / stage / "track" / "tensorboard").glob("events.*"))


def test_what_decided_the_result_is_in_the_manifest(run: Path) -> None:
    recipe = json.loads((run / "manifest.json").read_text())["recipe"]
    assert recipe["bpo"]["reward"] == "examples.reward:shape" and 0 < PRICE < 1
    assert recipe["bpo"]["algorithm"] == "examples.algorithm:ALGORITHM"
