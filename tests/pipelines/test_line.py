"""The whole line as users start it, in two steps a stage: on images as a Ray job on a hand-started
cluster of two nodes, and on a foreign text-only model on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bimode.inputs.prompt_limits import read_prompts
from bimode.renderer import Renderer, load_model
from tests.cluster.hand_started import HandStarted

REPO = Path(__file__).resolve().parent.parent.parent
RECIPES = REPO / "pipelines" / "recipes"
ANNEAL = ("anneal.strategy=non_r_then_r", "anneal.order=easy_first", "anneal.learner.zero_stage=2")
SMOKE = (str(RECIPES / "smoke.toml"), *(word for key in ANNEAL for word in ("--set", key)))
PLACED = ("--set", "cluster.rollout_resource=rollout", "--set", "cluster.learner_resource=learner")
MODES = {"non_thinking", "auto", "thinking"}
NODES = """
import json, sys
from ray.util.state import list_actors, list_nodes
nodes = {node.node_id: list(node.resources_total) for node in list_nodes(sys.argv[1])}
actors = list_actors(sys.argv[1], limit=1000)
print(json.dumps([[actor.class_name, nodes.get(actor.node_id, [])] for actor in actors]))
"""
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass(frozen=True)
class Finished:
    """A run and what it said."""

    path: Path
    said: str


def bimode(stage: str, *arguments: str) -> str:
    """Runs `bimode STAGE ...` as its own process and returns what it said on stderr."""
    command = [sys.executable, "-m", f"pipelines.{stage}", *arguments]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=900, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def submit(cluster: HandStarted, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.submit", *words, "--address", cluster.dashboard],
        cwd=REPO,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[HandStarted]:
    with HandStarted(resources='{"learner": 1}', second_node='{"rollout": 1}') as started:
        yield started
    assert started.left() == []


@pytest.fixture(scope="module")
def runs(
    cluster: HandStarted, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Finished]:
    """Two finished smoke runs, made at the same time: a job on the committed base, and one on a
    foreign text-only model.
    """
    out = tmp_path_factory.mktemp("line")
    text = (
        str(RECIPES / "smoke-text.toml"),
        "--set",
        f"model.base={tiny_text}",
        "--out",
        str(out / "smoke-text"),
    )
    with ThreadPoolExecutor() as both:
        here = both.submit(bimode, "run", *text)
        job = submit(cluster, *SMOKE, *PLACED, "--out", str(out / "smoke"))
    assert job.returncode == 0, job.stdout[-3000:] + job.stderr[-1000:]
    return {
        "smoke": Finished(out / "smoke", job.stdout),
        "smoke-text": Finished(out / "smoke-text", here.result()),
    }


@pytest.fixture(scope="module")
def image_run(runs: dict[str, Finished]) -> Path:
    return runs["smoke"].path


def check_run(run: Path, stages: tuple[str, ...]) -> None:
    """Every file that docs/formats.md promises is there, and the manifests close."""
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["stages"]) == set(stages) and manifest["recipe"]["name"]
    for stage in stages:
        sealed = json.loads((run / stage / "manifest.json").read_text())
        assert sealed["outputs"] and sealed["inputs"] is not None and sealed["counts"]
    report = json.loads((run / "evaluate" / "report.json").read_text())
    assert set(report["models"]) == {"base", "anneal", "bpo"}
    for model in report["models"].values():
        assert set(model["overall"]) == MODES
        assert all(0 <= field["accuracy"] <= 1 for field in model["overall"].values())
    assert "<html" in (run / "evaluate" / "report.html").read_text()
    assert len((run / "bpo" / "metrics.jsonl").read_text().splitlines()) == 2


def test_images_go_from_sources_to_the_report(image_run: Path) -> None:
    check_run(image_run, ("curate", "anneal", "bpo", "evaluate"))


def test_each_role_of_a_job_is_on_its_node_and_its_run_says_which_code_it_was(
    cluster: HandStarted, image_run: Path
) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True
    ).stdout.strip()
    assert json.loads((image_run / "manifest.json").read_text())["code"].startswith(
        commit or "files-"
    )
    listed = subprocess.run(
        [sys.executable, "-c", NODES, cluster.dashboard],
        cwd=REPO,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    places: dict[str, set[str]] = {}
    for name, resources in json.loads(listed.stdout.splitlines()[-1]):
        places.setdefault(name, set()).update({"rollout", "learner"} & set(resources))
    assert places["RolloutWorker"] == {"rollout"}
    assert places["LearnerRank"] == {"learner"}


def test_failed_job_is_one_line_and_a_code(cluster: HandStarted, tmp_path: Path) -> None:
    recipe = "pipelines/recipes/smoke.toml"
    failed = submit(
        cluster, recipe, "--out", str(tmp_path), "--stage", "bpo", "--set", "model.base=/absent"
    )
    assert failed.returncode == 2, "the job's own code"
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: job raysubmit_") and "exit code 2, as its log above says" in last
    assert failed.stdout.count("error: ") == 1 and "which bpo needs" in failed.stdout, (
        "the job's own line was not followed"
    )


def test_every_rollout_says_its_mode_version_and_worker(image_run: Path) -> None:
    steps = sorted((image_run / "bpo" / "rollouts").glob("step-*.parquet"))
    for step, path in enumerate(steps):
        rows = pq.read_table(path).to_pylist()
        assert len(rows) == 3 * 2 * 2
        assert {row["version"] for row in rows} == {step}
        assert sum(row["mode"] == "thinking" for row in rows) == len(rows) // 2
        assert {row["worker"] for row in rows} <= {
            "rollout-0",
            "rollout-1",
        }  # who is ready first may take both leases
    assert len(steps) == 2


def test_models_of_each_stage_open_with_plain_transformers(image_run: Path) -> None:
    import torch

    for stage in ("anneal", "bpo"):
        path = image_run / stage / "model"
        renderer = Renderer(path)
        model = load_model(path, torch.float32)
        prompt = read_prompts(image_run / "curate" / "data", "eval")[0]
        ids = torch.tensor([renderer.encode_prompt(prompt.question, prompt.images)])
        out = model.generate(
            input_ids=ids,
            **dict(renderer.encode_images(prompt.images)),
            max_new_tokens=2,
            do_sample=False,
        )
        assert out.shape[1] > ids.shape[1]


def test_parquet_opens_with_datasets_and_decodes_images(image_run: Path) -> None:
    import datasets

    data = datasets.load_dataset(str(image_run / "curate"), cache_dir=str(image_run / "hf-cache"))
    assert set(data) == {"train", "rl", "eval"}
    assert data["eval"][0]["images"][0].size == (40, 40)
    assert data["train"][0]["messages"][-1]["content"].startswith("<think>")


def test_a_second_run_skips_every_stage_and_a_changed_stage_alone_runs(image_run: Path) -> None:
    said = bimode("run", *SMOKE, "--out", str(image_run))
    assert said.count("unchanged, skipped") == 4


def test_an_annealing_that_was_cut_off_ends_where_it_would_have_ended(
    image_run: Path, tmp_path: Path
) -> None:
    """Two workers with DeepSpeed; all that came after the first checkpoint is lost, but for a line
    and a half of metrics.
    """
    cut = tmp_path / "cut"
    shutil.copytree(image_run, cut, symlinks=True)
    whole, stage = image_run / "anneal", cut / "anneal"
    shutil.rmtree(stage / "model")
    shutil.rmtree(stage / "checkpoints" / "step-000002")
    (stage / "manifest.json").unlink()
    with (stage / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "lo')
    assert "going on from unfinished work" in bimode("anneal", *SMOKE, "--out", str(cut))

    def lines(path: Path) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if key != "tokens_per_s"} for line in found
        ]

    assert lines(stage) == lines(whole) and [line["step"] for line in lines(whole)] == [1, 2]
    assert [set(line["loss_by_format"]) for line in lines(whole)] == [
        {"non_thinking"},
        {"thinking"},
    ]
    data = sorted((image_run / "curate" / "data").glob("train-*.parquet"))
    read = Counter(
        name
        for part in data
        for name in pq.read_table(part, columns=["format"])["format"].to_pylist()
    )
    assert json.loads((whole / "manifest.json").read_text())["counts"]["rows"] == dict(read)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (stage, whole)]
    assert weights[0] == weights[1]


def test_a_foreign_text_model_goes_through_by_recipe_alone(runs: dict[str, Finished]) -> None:
    run = runs["smoke-text"]
    assert "lacked" in run.said and "<think>" in run.said
    assert "core_worker.cc" not in run.said, "Ray's own log is on the console"
    check_run(run.path, ("curate", "anneal", "bpo", "evaluate"))
    assert Renderer(run.path / "bpo" / "model").kind == "text"
