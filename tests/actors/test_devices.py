"""A GPU that a recipe asks for and torch does not see is refused; who asks for none sees none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.devices import check_compiler, gpus_given, on_gpu
from bimode.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tiny_llava: Path) -> dict[str, Any]:
    """What fake_gpus.py reported."""
    if torch.cuda.is_available():
        pytest.skip("the GPUs that Ray offers here would be seen")
    environment = dict(os.environ)
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.actors.fake_gpus", str(tiny_llava)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.ray
def test_a_gpu_that_torch_does_not_see_is_one_line(found: dict[str, Any]) -> None:
    """Engine and learner computed on the CPU, without a word."""
    says = f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU on this node: "
    fix = "; install the torch build that fits the node's driver, or set it to 0"
    rollout, learner = "cluster.rollout_gpus = 0.5", "cluster.learner_gpus = 1"
    line = found["before"]
    assert line.startswith(f"2 {rollout}: {says}") and line.endswith(fix) and "\n" not in line
    assert found["served"].startswith(f"2 --gpus = 1: {says}")
    assert f"{rollout}: {says}" in found["engine"], "on a node that nobody has asked"
    assert f"{learner}: {says}" in found["rank"]


@pytest.mark.ray
def test_an_actor_that_asks_for_no_gpu_sees_none(found: dict[str, Any]) -> None:
    """Beside others that have some, it took the first GPU of its node and its memory."""
    assert found["hidden"] == ""


def test_outside_of_ray_torch_decides() -> None:
    assert gpus_given() == 0
    assert on_gpu("cluster.rollout_gpus") is torch.cuda.is_available()


def test_what_triton_compiles_with_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would end in a stack, after it has loaded the model."""
    (tmp_path / "Python.h").write_text("")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    check_compiler("cluster.rollout_gpus")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiler = r"^cluster.rollout_gpus = 0: vLLM needs a C compiler \(cc, gcc, clang\) on a"
    with pytest.raises(ConfigError, match=compiler):
        check_compiler("cluster.rollout_gpus")
    (tmp_path / "Python.h").unlink()
    both = f"a C compiler .* and Python's headers .{tmp_path}/Python.h. on a node"
    with pytest.raises(ConfigError, match=both):
        check_compiler("cluster.rollout_gpus")
