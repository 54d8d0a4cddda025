"""Fault drills on a short run: whoever is killed, the audit passes and the weights are those of an
undisturbed run.
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.config.recipe import Recipe
from bimode.errors import LearnerLostError
from bimode.rl.audit import Audit, audit
from bimode.storage.dataset import SCHEMA, sample_row
from bimode.storage.run_dir import StageDir
from data_curation.demo import FAMILIES
from pipelines import bpo

sys.path.insert(0, str(Path(__file__).parent))
from processes import Running

pytestmark = pytest.mark.ray
GROUPS = 2
BPO = {
    "steps": 4,
    "prompts_per_step": GROUPS,
    "group_size": 2,
    "max_tokens": 20,
    "checkpoint_every": 1,
    "rollout_workers": 1,
}


def recipe(model: Path, restarts: int = 3) -> Recipe:
    """Four updates of two questions, a checkpoint after each; one worker."""
    table = {
        "name": "drill",
        "stages": ["curate", "bpo"],
        "model": {"base": str(model)},
        "bpo": {**BPO, "learner_restarts": restarts},
    }
    return Recipe.of(table, (), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill") / "data"
    folder.mkdir()
    rows = [sample_row(FAMILIES["sums"](i, "rl", 0, (1, 1, 1)), "rl") for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "rl-00000-of-00001.parquet")
    return folder


def weights(run: Path) -> bytes:
    return (run / "bpo" / "model" / "model.safetensors").read_bytes()


def totals(run: Path) -> Audit:
    return audit(run / "bpo", GROUPS, None)


def check_closed(run: Path) -> None:
    found = totals(run)
    assert (
        found.problems == ()
        and found.started == 4 * GROUPS
        and found.counts["trained"] == 4 * GROUPS
    )
    assert found.sealed_steps == 4


def undisturbed(model: Path, data: Path, run: Path) -> bytes:
    """The weights of a run to which nothing happens."""
    bpo.execute(recipe(model), StageDir(run, "bpo"), {"model": model, "data": data})
    check_closed(run)
    return weights(run)


def test_a_learner_that_keeps_dying_ends_the_run(
    ray_local: Any, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def dies(*_: Any) -> None:
        tried.append(1)
        raise LearnerLostError("a rank of the learner group died")

    monkeypatch.setattr(bpo, "train", dies)
    with pytest.raises(LearnerLostError, match="a rank of the learner group died"):
        bpo.execute(recipe(text_model, restarts=2), StageDir(tmp_path, "bpo"), {})
    assert len(tried) == 3


@pytest.mark.slow
def test_a_killed_driver_and_a_killed_learner_change_nothing(
    ray_local: Any, text_model: Path, data: Path, tmp_path: Path
) -> None:
    """SIGKILL in mid-run, then the same command, whose learner is killed once; meanwhile a run to
    which nothing happens.
    """
    beside = ThreadPoolExecutor(1)
    whole = beside.submit(undisturbed, text_model, data, tmp_path / "whole")
    run = tmp_path / "run"
    (run / "curate").mkdir(parents=True)
    (run / "curate" / "data").symlink_to(data)
    file = tmp_path / "drill.toml"
    file.write_text(
        f'name = "drill"\nstages = ["curate", "bpo"]\n[model]\nbase = "{text_model}"\n[bpo]\n'
        + "".join(f"{key} = {value}\n" for key, value in BPO.items())
    )
    words = ("-m", "pipelines.bpo", str(file), "--out", str(run))
    with Running(words, tmp_path / "killed.log") as killed:
        killed.wait_until(
            lambda: totals(run).sealed_steps >= 1 if (run / "bpo" / "ledger").is_dir() else False,
            300,
        )
        killed.note_tree()
        killed.process.send_signal(signal.SIGKILL)
        assert killed.process.wait(60) == -signal.SIGKILL
    assert totals(run).problems == ()
    drill = (
        "cluster.chaos=kill-learner",
        "cluster.chaos_seed=10",
        "cluster.chaos_every_s=10",
    )  # within a second, then after 25
    with Running(
        (*words, *(word for key in drill for word in ("--set", key))), tmp_path / "again.log"
    ) as again:
        assert again.process.wait(300) == 0, again.log.read_text()[-3000:]
    said = (tmp_path / "again.log").read_text()
    assert "kept from before" in said, (
        "or the rate would be that of steps which nobody has just done"
    )
    assert "(raylet)" not in said, "the run itself says who was lost, in a line"
    assert (
        "chaos: kill-learner" in said
        and "starting again from the last sealed checkpoint (2 restarts left)" in said
    )
    check_closed(run)
    assert weights(run) == whole.result()
