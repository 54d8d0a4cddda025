"""`bimode prove`: a right model passes every check with its number, a wrong one fails by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_families import write

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
CHECKS = (
    "decision is one token",
    "images reach the model",
    "packed = alone, values",
    "packed = alone, gradients",
    "learner = engine, at load",
    "learner = engine, after update 1",
    "a missed update is seen",
    "learner = engine, after update 2",
    "saved and opened again",
)


def prove(model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.prove", str(model), "--max-model-len", "512"]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)


def test_a_model_with_several_positions_a_token_passes(tmp_path: Path) -> None:
    done = prove(write("qwen3_vl", tmp_path / "model"))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert all(f"│ {check}" in done.stdout for check in CHECKS)
    assert "failed" not in done.stdout


def test_weights_that_the_engine_does_not_have_are_found(tmp_path: Path) -> None:
    """The engine reads biases of attention only where the config says that there are some."""
    model = write("glm4v", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["text_config"].pop("attention_bias")
    (model / "config.json").write_text(json.dumps(config))
    done = prove(model)
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    failed = [line for line in done.stdout.splitlines() if "failed" in line]
    assert any("learner = engine, at load" in line for line in failed)


def test_an_unknown_family_is_a_line(tiny_llava: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llava, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "vipllava"}))
    done = prove(model)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: MODEL = ") and "qwen3_vl" in done.stderr
