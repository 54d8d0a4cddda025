"""Checkpoint folders: whole or absent, the newest kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bimode.storage.checkpoints import (
    checkpoint_path,
    checkpoints,
    latest,
    partial_path,
    publish,
    step_of,
)
from bimode.storage.run_dir import to_disk


def write(root: Path, step: int, text: str = "x") -> Path:
    path = checkpoint_path(root, step)
    partial_path(path).mkdir(parents=True)
    (partial_path(path) / "state").write_text(text)
    return path


def test_a_folder_being_written_is_no_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    assert latest(tmp_path) is None and latest(tmp_path / "absent") is None
    publish(path)
    assert latest(tmp_path) == path and step_of(path) == 5


def test_only_the_newest_stay_and_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for step in (9, 10, 1_000_000):
        publish(write(tmp_path, step), keep=2)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [10, 1_000_000]
    assert (tmp_path / "notes").is_dir()


def test_a_checkpoint_that_is_half_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        partial_path(checkpoint_path(tmp_path, step)).mkdir()
        if step == 3:
            monkeypatch.setattr("shutil.rmtree", lambda path: None)  # killed before it
        publish(checkpoint_path(tmp_path, step), 2)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [2, 3]
    monkeypatch.undo()
    publish(write(tmp_path, 4), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000003",
        "step-000004",
    ], "nor does its rest stay for ever"


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    publish(write(tmp_path, 3, "old"))
    publish(write(tmp_path, 3, "new"))
    assert (checkpoint_path(tmp_path, 3) / "state").read_text() == "new"


def test_a_foreign_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        step_of(Path("model"))


def test_what_a_file_system_cannot_make_sure_of_ends_no_run() -> None:
    with pytest.raises(OSError, match="Invalid argument"), Path("/dev/null").open() as device:
        os.fsync(device.fileno())  # what some mounted buckets say of folders
    to_disk(Path("/dev/null"))
