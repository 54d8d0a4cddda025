"""Fault drills on a short run: whoever is killed, the books close and the weights are those of an undisturbed run."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.audit import Audit, audit
from bimode.config import Recipe
from bimode.dataset import SCHEMA, sample_row
from bimode.errors import LearnerLostError
from bimode.recipe import build_recipe
from bimode.rundir import StageDir
from data_curation.families import FAMILIES
from pipelines import bpo

sys.path.insert(0, str(Path(__file__).parent))
from processes import Running

pytestmark = pytest.mark.ray
GROUPS = 2


def recipe(model: Path, chaos: str = "", every_s: float = 30.0, seed: int = 0, restarts: int = 3) -> Recipe:
    """Four updates of two questions, a checkpoint after each; two workers with a question each."""
    steps = {"steps": 4, "prompts_per_step": GROUPS, "group_size": 2, "max_tokens": 20, "checkpoint_every": 1}
    table = {
        "name": "drill", "stages": ["curate", "bpo"], "model": {"base": str(model)},
        "bpo": {**steps, "learner_restarts": restarts},
        "cluster": {"chaos": chaos, "chaos_every_s": every_s, "chaos_seed": seed},
    }  # fmt: skip
    return build_recipe(table, (), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill") / "data"
    folder.mkdir()
    rows = [sample_row(FAMILIES["digits"](i, "rl", 0, (1, 1, 1)), "rl") for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "rl-00000-of-00001.parquet")
    return folder


def weights(run: Path) -> bytes:
    return (run / "bpo" / "model" / "model.safetensors").read_bytes()


def books(run: Path) -> Audit:
    return audit(run / "bpo", GROUPS, None)


def check_closed(run: Path) -> None:
    found = books(run)
    assert found.problems == () and found.drawn == 4 * GROUPS and found.counts["trained"] == 4 * GROUPS
    assert found.sealed_steps == 4


@pytest.fixture(scope="module")
def undisturbed(ray_local: Any, tiny_llava: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    run = tmp_path_factory.mktemp("undisturbed")
    bpo.execute(recipe(tiny_llava), StageDir(run, "bpo"), {"model": tiny_llava, "data": data})
    check_closed(run)
    return weights(run)


@pytest.mark.parametrize(("kind", "seed"), [("kill-rollout", 9), ("kill-learner", 10)])  # a fault within 5 s, the next after 70
def test_a_killed_actor_changes_nothing(
    kind: str, seed: int, undisturbed: bytes, tiny_llava: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpo.execute(recipe(tiny_llava, kind, seed=seed), StageDir(tmp_path, "bpo"), {"model": tiny_llava, "data": data})
    said = capsys.readouterr().err
    assert f"chaos: {kind}" in said
    assert ("takes its place" if kind == "kill-rollout" else "starting again from the last sealed checkpoint") in said
    check_closed(tmp_path)
    assert weights(tmp_path) == undisturbed


def test_a_learner_that_keeps_dying_ends_the_run(ray_local: Any, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(LearnerLostError, match="a rank of the learner group died"):
        bpo.execute(
            recipe(tiny_llava, "kill-learner", every_s=0.01, restarts=1), StageDir(tmp_path, "bpo"),
            {"model": tiny_llava, "data": data},
        )  # fmt: skip


def test_a_killed_driver_goes_on(undisturbed: bytes, tiny_llava: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL in mid-run, then the same command."""
    run = tmp_path / "run"
    (run / "curate").mkdir(parents=True)
    (run / "curate" / "data").symlink_to(data)
    file = tmp_path / "drill.toml"
    file.write_text(
        f'name = "drill"\nstages = ["curate", "bpo"]\n[model]\nbase = "{tiny_llava}"\n'
        f"[bpo]\nsteps = 4\nprompts_per_step = {GROUPS}\ngroup_size = 2\nmax_tokens = 20\ncheckpoint_every = 1\n"
    )
    words = ("-m", "pipelines.bpo", str(file), "--out", str(run))
    with Running(words, tmp_path / "killed.log") as killed:
        killed.wait_until(lambda: books(run).sealed_steps >= 1 if (run / "bpo" / "ledger").is_dir() else False, 300)
        killed.note_tree()
        killed.process.send_signal(signal.SIGKILL)
        assert killed.process.wait(60) == -signal.SIGKILL
    assert books(run).problems == ()
    with Running(words, tmp_path / "again.log") as again:
        assert again.process.wait(300) == 0, again.log.read_text()[-3000:]
    check_closed(run)
    assert weights(run) == undisturbed
