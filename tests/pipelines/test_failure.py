"""From what went wrong to the one line that the user sees: what failed, what is kept, where the
rest of it stands.
"""

from __future__ import annotations

import asyncio
import errno
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import BaseModel
from ray.exceptions import ActorDiedError, RayTaskError

from bimode.config.recipe import ModelConfig
from bimode.errors import (
    BimodeError,
    ConfigError,
    DivergedError,
    LedgerError,
    RowNote,
    StarvedError,
    WorkerLostError,
)
from data_curation.tasks import run_pool, run_tasks
from pipelines.failure import GO_ON, StageFailed, as_user_error
from pipelines.reasons import Reason, read_reason

PYDANTIC = """pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, max_model_len (99999) is greater than 1024. [type=value_error]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error"""


def test_ray_task_error_unwraps_to_its_cause(tmp_path: Path) -> None:
    def wrapped(cause: Exception) -> Exception:
        return RayTaskError("work", "many lines\nof traceback", cause).as_instanceof_cause()

    line = str(as_user_error("bpo", tmp_path, wrapped(DivergedError("loss is nan"))))
    assert line.startswith("bpo: loss is nan (") and "the same command continues" in line
    starved = as_user_error("curate", tmp_path, wrapped(StarvedError("no rows")))
    assert isinstance(starved, StarvedError) and "the same command" not in str(starved), (
        "it would end in the same way"
    )
    with pytest.raises(RuntimeError) as torchs:
        torch.save(torch.zeros(300_000), "/dev/full")
    for full in (OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), torchs.value):
        assert "no space left on the disk" in str(as_user_error("anneal", tmp_path, wrapped(full)))
    denied = as_user_error(
        "bpo",
        tmp_path,
        wrapped(PermissionError(errno.EACCES, "Permission denied", "/x/model.safetensors")),
    )
    assert str(denied).startswith("bpo: /x/model.safetensors: this user has no permission for it")
    config = as_user_error("bpo", tmp_path, wrapped(ConfigError("a.b", 3, "use 4")))
    assert str(config) == "a.b = 3: use 4" and config.exit_code == 2
    assert not (tmp_path / "error.log").exists()


def test_unforeseen_error_goes_to_the_log_and_says_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "curate").mkdir()
    (tmp_path / "curate" / "manifest.json").write_text("{}")
    error = as_user_error(
        "anneal",
        tmp_path,
        RayTaskError("work", "trace", ZeroDivisionError("a bug")).as_instanceof_cause(),
    )
    assert (
        "anneal: ZeroDivisionError: a bug" in str(error)
        and "curate" in str(error)
        and error.exit_code == 1
    )
    assert "ZeroDivisionError" in (tmp_path / "error.log").read_text()
    assert pickle.loads(pickle.dumps(error)).args == error.args
    made = ActorDiedError(
        RayTaskError(
            "W.__init__", "W.__init__()\n  File ...\nOSError: no weights\n", OSError("no weights")
        )
    )
    assert str(as_user_error("bpo", tmp_path, made)).startswith("bpo: OSError: no weights (kept in")
    learner = RayTaskError(
        "work", "trace", ConfigError("learner.train", "x", "no such part")
    ).as_instanceof_cause()
    assert str(as_user_error("bpo", tmp_path, learner)) == "bpo.learner.train = x: no such part"
    unwritten = as_user_error("anneal", tmp_path / "gone", ZeroDivisionError("a bug"))
    assert "a bug" in str(unwritten) and "traceback" not in str(unwritten), (
        "no log is claimed that was not written"
    )


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


def read(raise_it: Callable[[], None]) -> Reason:
    """The reason of what `raise_it` raises, as its traceback tells it."""
    try:
        raise_it()
    except Exception as error:
        return read_reason("".join(traceback.format_exception(error)))
    raise AssertionError("nothing was raised")


def from_cause() -> None:
    try:
        raise ValueError("Head size 20 is not supported\nby any backend")
    except ValueError as error:
        raise RuntimeError("Engine core initialization failed. See root cause above.") from error


def in_handler() -> None:
    try:
        from_cause()
    except RuntimeError:
        raise AttributeError("None has no shutdown")  # noqa: B904 as code that cleans up does


def in_two_rows() -> None:
    with RowNote("q7"):
        from_cause()


def a_field() -> None:
    class Settings(BaseModel):
        block_size: int

    Settings(block_size="many")


def hidden() -> None:
    try:
        raise KeyError("k")
    except KeyError:
        raise ValueError("two lines\nKeyError: of a table") from None


@pytest.mark.parametrize(
    ("raise_it", "says"),
    [
        (from_cause, "ValueError: Head size 20 is not supported"),
        (
            in_handler,
            (
                "AttributeError: None has no shutdown, while handling ValueError: Head size 20 is"
                " not supported"
            ),
        ),
        (in_two_rows, "ValueError: Head size 20 is not supported in row q7"),
        (
            a_field,
            (
                "ValueError: Settings.block_size: Input should be a valid integer, unable to parse"
                " string as an integer"
            ),
        ),
        (hidden, "ValueError: two lines"),
    ],
)
def test_the_deepest_reason_of_a_chain_is_told(raise_it: Callable[[], None], says: str) -> None:
    """What was raised on purpose from another error is not; what only came up meanwhile is told
    behind.
    """
    assert str(read(raise_it)) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"ray::W.__init__() (pid=1)\n           ^^^^\n{PYDANTIC}",
            "ValueError: max_model_len (99999) is greater than 1024.",
        ),
        ("ray::W.f() (pid=1)\nKeyError", "KeyError: "),
        (
            (
                'ray::W.f() (pid=1)\n  File "a.py", line 1\n    f()\nbimode.errors.StarvedError: no'
                " rows"
            ),
            "StarvedError: no rows",
        ),
        ("nothing that we know", "Exception: nothing that we know"),
        ("", "Exception: "),
    ],
)
def test_whatever_text_there_is_has_a_reason(text: str, says: str) -> None:
    assert str(read_reason(text)) == says


@pytest.mark.parametrize(
    ("cause", "comes_again"),
    [
        (ValueError("Head size 20 is not supported"), True),
        (KeyError("k"), True),
        (TypeError("t"), True),
        (FileNotFoundError(2, "No such file", "x"), True),
        (LedgerError("line 3"), True),
        (StarvedError("no rows"), True),
        (OSError(5, "Input/output error"), False),
        (ConnectionResetError("reset"), False),
        (MemoryError(), False),
        (TimeoutError("late"), False),
        (WorkerLostError("rollout-0 died"), False),
        (ActorDiedError(), False),
    ],
)
def test_that_the_same_command_continues_is_said_of_what_may_pass_alone(
    tmp_path: Path, cause: Exception, comes_again: bool
) -> None:
    text = "".join(traceback.format_exception_only(cause))
    for error in (cause, RayTaskError("work", f"ray::work()\n{text}", cause).as_instanceof_cause()):
        line = str(as_user_error("bpo", tmp_path, error))
        assert (GO_ON not in line) is comes_again and "unfinished work is kept" in line


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (
            "StarvedError: no rows are left in /x: raise curate.rl = 3: or so",
            StarvedError,
            "bpo: no rows are left in /x",
        ),
        ("ConfigError: a.b = 3: use 4", ConfigError, "a.b = 3: use 4"),
        ("WorkerLostError: rollout-0 died", WorkerLostError, "bpo: rollout-0 died ("),
        ("NoSuchError: of another version", StageFailed, "bpo: NoSuchError: of another version ("),
    ],
)
def test_our_own_errors_are_themselves_again(
    tmp_path: Path, text: str, kind: type[BimodeError], says: str
) -> None:
    """Of what an actor's constructor raised, Ray keeps the text only."""
    made = RayTaskError(
        "W.__init__", f"ray::W.__init__()\n  File ...\nbimode.errors.{text}\n", OSError("x")
    )
    told = as_user_error("bpo", tmp_path, ActorDiedError(made))
    assert type(told) is kind and str(told).startswith(says)


def boom(batch: Any) -> Any:
    with RowNote("q7"):
        from_cause()


def wrong_key(batch: Any) -> Any:
    raise ConfigError("curate.filter.languages", "xx", "use en")


class Doomed:
    """An actor of a pool whose constructor fails as an engine's does."""

    def __init__(self) -> None:
        from_cause()

    def __call__(self, batch: Any) -> Any:
        return batch


class Misconfigured(Doomed):
    def __init__(self) -> None:
        raise ConfigError("bpo.sync", "nccl", "moves weights between GPUs; use object_store")


@pytest.mark.ray
def test_what_fails_inside_ray_data_is_told_by_its_own_reason(
    ray_local: Any, tmp_path: Path
) -> None:
    """With the row's id, not as a UDF that failed; a mistake of the user's keeps its key and its
    code, from a constructor too.
    """
    tasks, rows = [pa.table({"at": [0]})], [[{"at": 0}]]

    def line(run: Callable[[], Any]) -> BimodeError:
        with pytest.raises(Exception) as failed:
            list(run())
        return as_user_error("curate", tmp_path, failed.value)

    told = "curate: ValueError: Head size 20 is not supported"
    assert str(line(lambda: run_tasks(tasks, boom))).startswith(
        f"{told} in row q7 (unfinished work is kept in"
    )
    assert str(line(lambda: run_pool(Doomed, (), rows, 1, {"num_cpus": 0}))).startswith(
        f"{told} (unfinished"
    )
    for run in (
        lambda: run_tasks(tasks, wrong_key),
        lambda: run_pool(Misconfigured, (), rows, 1, {"num_cpus": 0}),
    ):
        mistake = line(run)
        assert isinstance(mistake, ConfigError) and mistake.exit_code == 2
        assert mistake.key in ("curate.filter.languages", "bpo.sync")


@pytest.mark.ray
def test_an_engine_that_is_given_a_wrong_argument_says_which(
    ray_local: Any, text_model: Path, tmp_path: Path
) -> None:
    """vLLM's own validation, whose last line is where pydantic's documentation stands."""
    from actors.rollout.fleet import RolloutFleet

    model = ModelConfig(max_model_len=99_999)
    fleet = RolloutFleet(
        text_model, model, workers=1, options={"num_cpus": 0}, seed=0, sync="object_store"
    )
    with pytest.raises(ActorDiedError) as failed:
        asyncio.run(fleet.ready())
    line = str(as_user_error("bpo", tmp_path, failed.value))
    assert line.startswith(
        "bpo: ValueError: User-specified max_model_len (99999) is greater than the derived"
        " max_model_len"
    )
    assert "pydantic" not in line and GO_ON not in line
