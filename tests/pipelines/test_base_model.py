"""Where a run's starting model is looked for, and where it lies."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from pipelines.harness import base_directory, base_model

sys.path.insert(0, str(Path(__file__).parent))
from processes import REPO


def test_a_copied_run_has_its_own_base(tmp_path: Path) -> None:
    """It went on from the base of the run that it was copied of, whatever another recipe had made
    of that by then.
    """
    recipe = Recipe.of({"name": "t", "model": {"base": "new:tiny-llava"}})
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    assert base_model(recipe, run) == base_model(recipe, run) == run / "base"
    assert {file.stat().st_mode & 0o777 for file in (run / "base").iterdir()} == {0o644}, (
        "others may read it"
    )
    shutil.copytree(run, copy)
    made = (copy / "base" / "model.safetensors").stat().st_mtime_ns
    assert base_model(recipe, copy) == copy / "base"
    assert (copy / "base" / "model.safetensors").stat().st_mtime_ns == made, (
        "and it is not made again"
    )


def test_a_shipped_base_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert base_directory("assets/tiny-base") == REPO / "assets" / "tiny-base"
    (tmp_path / "assets" / "tiny-base").mkdir(parents=True)
    assert base_directory("assets/tiny-base") == tmp_path / "assets" / "tiny-base", (
        "one that lies here comes first"
    )
    with pytest.raises(
        ConfigError, match=f"no such directory: {tmp_path}/absent or {REPO}/absent; "
    ):
        base_directory("absent")
    with pytest.raises(
        ConfigError, match=r"^curate\.judge\.model = absent: .*; give a model directory$"
    ):
        base_directory("absent", "curate.judge.model")
