"""From what went wrong to the one line that the user sees: what failed, what is kept, where the rest of it stands."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from bimode.errors import ConfigError, DivergedError, StarvedError
from pipelines.failure import as_user_error


def test_ray_task_error_unwraps_to_its_cause(tmp_path: Path) -> None:
    def wrapped(cause: Exception) -> Exception:
        return RayTaskError("work", "many lines\nof traceback", cause).as_instanceof_cause()

    line = str(as_user_error("bpo", tmp_path, wrapped(DivergedError("loss is nan"))))
    assert line.startswith("bpo: loss is nan (") and "the same command continues" in line
    starved = as_user_error("curate", tmp_path, wrapped(StarvedError("no rows")))
    assert isinstance(starved, StarvedError) and "the same command" not in str(starved), "it would end in the same way"
    with pytest.raises(RuntimeError) as torchs:
        torch.save(torch.zeros(300_000), "/dev/full")
    for full in (OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), torchs.value):
        assert "no space left on the disk" in str(as_user_error("anneal", tmp_path, wrapped(full)))
    denied = as_user_error("bpo", tmp_path, wrapped(PermissionError(errno.EACCES, "Permission denied", "/x/model.safetensors")))
    assert str(denied).startswith("bpo: /x/model.safetensors: this user has no permission for it")
    config = as_user_error("bpo", tmp_path, wrapped(ConfigError("a.b", 3, "use 4")))
    assert str(config) == "a.b = 3: use 4" and config.exit_code == 2
    assert not (tmp_path / "error.log").exists()


def test_unforeseen_error_goes_to_the_log_and_says_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "curate").mkdir()
    (tmp_path / "curate" / "manifest.json").write_text("{}")
    error = as_user_error("anneal", tmp_path, RayTaskError("work", "trace", ZeroDivisionError("a bug")).as_instanceof_cause())
    assert "anneal: ZeroDivisionError: a bug" in str(error) and "curate" in str(error) and error.exit_code == 1
    assert "ZeroDivisionError" in (tmp_path / "error.log").read_text()
    assert pickle.loads(pickle.dumps(error)).args == error.args
    made = ActorDiedError(RayTaskError("W.__init__", "W.__init__()\n  File ...\nOSError: no weights\n", OSError("no weights")))
    assert str(as_user_error("bpo", tmp_path, made)).startswith("bpo: OSError: no weights (kept in")
    learner = RayTaskError("work", "trace", ConfigError("learner.freeze", "x", "matches no parameter")).as_instanceof_cause()
    assert str(as_user_error("bpo", tmp_path, learner)) == "bpo.learner.freeze = x: matches no parameter"
    unwritten = as_user_error("anneal", tmp_path / "gone", ZeroDivisionError("a bug"))
    assert "a bug" in str(unwritten) and "traceback" not in str(unwritten), "no log is claimed that was not written"


def test_a_full_disk_gets_back_what_the_stage_has_half_written(tmp_path: Path) -> None:
    """The line said "free some", and the model that had not found room lay there still."""
    half = tmp_path / "bpo" / ".partial-model"
    checkpoint = tmp_path / "bpo" / "checkpoints" / ".partial-step-000002" / "deepspeed"
    whole = tmp_path / "bpo" / "checkpoints" / "step-000001"
    others = tmp_path / "anneal" / ".partial-model"
    for folder in (half, checkpoint, whole, others):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("1234")
    (tmp_path / "bpo" / ".partial-reference.parquet").write_text("12")
    as_user_error("bpo", tmp_path, ZeroDivisionError("a bug"))
    assert half.is_dir() and checkpoint.is_dir()
    as_user_error("bpo", tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("weights")}
    assert left == {path.relative_to(tmp_path) / "weights" for path in (whole, others)}
    assert not (tmp_path / "bpo" / ".partial-reference.parquet").exists()
