"""Turn any error of a stage into one line: what failed, what is kept, how to continue."""

from __future__ import annotations

import builtins
import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bimode import errors
from bimode.errors import NOT_PERMITTED, BimodeError, BusyError, ConfigError
from bimode.storage.run_dir import remove_half_written, write_atomic
from pipelines.reasons import Reason, reason_of

INTERRUPTED = 130  # exit code after Ctrl-C
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
GO_ON = "the same command continues"
AGAIN = "it would come again: mend its cause first, then run the same command"
PASSING = (OSError, MemoryError, EOFError)
LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
CONFIG_ERROR = re.compile(
    r"(?P<key>(?:(?:row|prompt) \S+\.)?[\w.-]+) = (?P<value>.*?): (?P<fix>.*)"
)
# The last is the whole message of torch.save.
FULL_DISK = ("no space left on device", "disk quota exceeded", "] . unexpected pos")


class StageFailed(BimodeError):
    """A stage ended with an error that no other BimodeError describes."""


@contextmanager
def reported(stage: str, run: Path) -> Iterator[None]:
    """Turn every error of `stage` into a BimodeError.

    The traceback of an unforeseen error goes to DIR/error.log.
    """
    try:
        yield
    except Exception as error:  # the boundary of a run
        raise as_user_error(stage, run, error) from error


def as_user_error(stage: str, run: Path, error: Exception) -> BimodeError:
    """The one-line error for `error`. ConfigErrors keep their text; others gain the stage and what
    is kept.
    """
    outermost_first = list(causes(error))
    # The cause itself goes first: a task error of Ray is an instance of its cause's class too.
    chain = outermost_first[::-1]
    for cause in chain:
        if isinstance(cause, BimodeError):
            return _with_stage(stage, run, cause)
    kept = _kept(run)
    if any(map(is_full_disk, chain)):
        remove_half_written(run / stage)
        full = f"{stage}: no space left on the disk of {run}: free some"
        return StageFailed(f"{full} ({kept}; {GO_ON})")
    for cause in chain:
        if isinstance(cause, PermissionError):
            denied = f"{cause.filename or cause}: {NOT_PERMITTED}"
            return StageFailed(f"{stage}: {denied} ({kept}; {GO_ON})")
    reason = reason_of(outermost_first)
    if ours := _restored(reason):
        return _with_stage(stage, run, ours)
    log, where = run / "error.log", ""
    with suppress(OSError):
        if run.is_dir():
            write_atomic(log, "".join(traceback.format_exception(error)))
            where = f"traceback in {log}; "
    go_on = AGAIN if _comes_again(reason) else GO_ON
    return StageFailed(f"{stage}: {reason} ({kept}; {where}{go_on})")


def _with_stage(stage: str, run: Path, error: BimodeError) -> BimodeError:
    """`error` with its stage and what is kept."""
    if isinstance(error, ConfigError):
        if error.key.startswith("learner."):  # a learner does not know its stage
            return ConfigError(f"{stage}.{error.key}", error.value, error.fix)
        return error
    if isinstance(error, BusyError):  # nothing has failed
        return error
    go_on = "" if error.comes_again else f"; {GO_ON}"
    where = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return type(error)(f"{stage}: {error}{where} ({_kept(run)}{go_on})")


def _restored(reason: Reason) -> BimodeError | None:
    """The BimodeError of which Ray kept only the text, as of one from an actor's constructor."""
    module, _, name = reason.name.rpartition(".")
    kind = getattr(errors, name, None) if module == errors.__name__ else None
    if not isinstance(kind, type) or not issubclass(kind, BimodeError):
        return None
    if issubclass(kind, ConfigError):
        config = CONFIG_ERROR.fullmatch(reason.said)
        return kind(config["key"], config["value"], config["fix"]) if config else None
    row = f" in row {reason.row}" if reason.row else ""
    return kind(f"{reason.said}{row}")


def _comes_again(reason: Reason) -> bool:
    """Whether the same command would fail again. An error of a machine, disk or network may not."""
    module, _, name = reason.name.rpartition(".")
    if module.startswith("ray.") or name.startswith("Dist"):  # Ray itself, or torch.distributed
        return False
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type):
        return True
    return not issubclass(kind, PASSING) or issubclass(kind, LASTING)


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and the errors that Ray and Ray Train wrapped in it, outermost first."""
    at: BaseException | None = error
    while at is not None:
        yield at
        nested = [getattr(at, name, None) for name in ("cause", "controller_failure", "_base_exc")]
        nested += (getattr(at, "worker_failures", None) or {}).values()
        at = next((inner for inner in nested if isinstance(inner, BaseException)), None)


def is_full_disk(error: BaseException) -> bool:
    """Whether a disk or a quota is full, also where a library kept only the text of its error."""
    text = str(error).lower()
    code = getattr(error, "errno", None)
    return code in FULL_DISK_ERRORS or any(words in text for words in FULL_DISK)


def _kept(run: Path) -> str:
    sealed = sorted(path.parent.name for path in run.glob("*/manifest.json"))
    if not sealed:
        return f"unfinished work is kept in {run}"
    return f"kept in {run}: {', '.join(sealed)} and unfinished work"
