"""What a job can see of the paths in a recipe: the code that is uploaded, and nothing else that is
relative.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from cluster import submit
from pipelines.submit import check_paths


@pytest.fixture()
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with data in it, a run, and a link to data outside."""
    for name in (
        "outside/b.parquet",
        "code/data/deep/a.parquet",
        "code/runs/x/model",
        "code/.venv-gpu/model",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "code" / "link").symlink_to(tmp_path / "outside")
    subprocess.run("git init -q . && git add -A", cwd=tmp_path / "code", shell=True, check=True)
    (tmp_path / "code" / "data" / "new").mkdir()
    (tmp_path / "code" / "data" / "new" / "untracked.jsonl").touch()
    monkeypatch.setattr(submit, "ROOT", tmp_path / "code")
    return tmp_path / "code"


@pytest.mark.parametrize(
    "path", ["data", "data/deep/a.parquet", "data/*/a.parquet", "data/**/*.parquet", "./data/", "."]
)
def test_what_is_in_the_code_travels(code: Path, path: str) -> None:
    assert submit.is_uploaded(path)


@pytest.mark.parametrize(
    "path",
    [
        "absent",
        "data/*.jsonl",
        "data/new",
        "data/**/*.jsonl",
        "runs/x/model",
        ".venv-gpu/model",
        "../outside",
        "../outside/*.parquet",
        "link/b.parquet",
    ],
)
def test_what_is_left_at_home_does_not(code: Path, path: str) -> None:
    assert not submit.is_uploaded(path)


LOST = "runs/x"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"model": {"base": LOST}}, "model.base"),
        (
            {"curate": {"sources": [{"family": "digits"}, {"path": LOST, "layout": "chat"}]}},
            "curate.sources.1.path",
        ),
        ({"curate": {"rollouts": {"models": ["/m", LOST]}}}, "curate.rollouts.models.1"),
        ({"curate": {"dedup": {"against": [LOST]}}}, "curate.dedup.against.0"),
        ({"curate": {"judge": {"model": LOST}}}, "curate.judge.model"),
        ({"curate": {"traces": {"model": LOST}}}, "curate.traces.model"),
    ],
)
def test_a_job_is_refused_what_it_would_not_find(section: dict[str, Any], key: str) -> None:
    recipe = Recipe.of({"name": "t", **section})
    with pytest.raises(ConfigError, match=f"^{key} = runs/x: is relative"):
        check_paths(recipe, "run")
    if key != "model.base":
        check_paths(recipe, "anneal")  # does not read it


def test_what_every_node_can_see_is_left_alone() -> None:
    curate = {
        "sources": [{"path": "s3://b/x", "layout": "chat"}, {"path": "/d", "layout": "chat"}],
        "traces": {"model": "base"},
    }
    for base in ("assets/tiny-base", "new:tiny-llava", "/models/m"):
        check_paths(Recipe.of({"name": "t", "model": {"base": base}, "curate": curate}), "run")
