"""What several files of this folder start from."""

from __future__ import annotations

from pathlib import Path

import pytest

SMOKE = 'name = "t"\nstages = ["anneal"]\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that anneals."""
    path = tmp_path / "t.toml"
    path.write_text(SMOKE)
    return path
