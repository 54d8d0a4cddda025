"""A run on real Ray, from the outside: it seals, skips, starts anew when changed, and leaves nothing behind on Ctrl-C."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from processes import Running, command

TOY = str(Path(__file__).parent / "toy_stage.py")
pytestmark = pytest.mark.ray


@pytest.fixture()
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "toy.toml"
    path.write_text('name = "toy"\nstages = []\n')
    return str(path)


def test_stage_is_sealed_then_skipped_then_redone(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (TOY, "ok", recipe, "--out", str(run))
    first = command(*words)
    assert first.returncode == 0, first.stderr
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stages"]["toy"]["counts"] == {"rows": 1} and manifest["versions"]["ray"] and manifest["code"]
    second = command(*words)
    assert second.returncode == 0 and "toy: unchanged, skipped" in second.stderr
    third = command(*words, "--seed", "3")
    assert third.returncode == 0 and "config or inputs changed" in third.stderr
    assert (run / "replaced" / "toy-1" / "out.txt").is_file() and (run / "toy" / "out.txt").is_file()
    assert json.loads((run / "manifest.json").read_text())["run"] == manifest["run"]


def test_starved_worker_is_one_line_and_its_work_is_kept(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    failed = command(TOY, "starved", recipe, "--out", str(run))
    assert failed.returncode == 1
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: toy: no rows left (") and "Traceback" not in failed.stderr
    assert (run / "toy" / "partial.txt").is_file()


def test_ctrl_c_leaves_no_process_and_goes_on(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = run / "toy" / "started"
    with Running((TOY, "sleep", recipe, "--out", str(run)), tmp_path / "log") as running:
        running.wait_until(lambda: started.is_file() and started.read_text() != "", timeout=90)
        assert running.interrupt() == 130
        assert any(p.pid == int(started.read_text()) for p in running.tree), "the stage's own child was not seen"
        assert running.left() == []
        assert not psutil.pid_exists(int(started.read_text()))
    assert "error: interrupted" in (tmp_path / "log").read_text()
    again = command(TOY, "ok", recipe, "--out", str(run))
    assert again.returncode == 0 and "going on from unfinished work" in again.stderr
