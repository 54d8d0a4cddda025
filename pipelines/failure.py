"""From whatever went wrong to one line: what failed, what is kept, how to go on."""

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
FULL_DISK = (
    "no space left on device",
    "disk quota exceeded",
    "] . unexpected pos",
)  # the last is all that torch.save says


class StageFailed(BimodeError):
    """A stage that died of something no other BimodeError describes."""


@contextmanager
def reported(stage: str, run: Path) -> Iterator[None]:
    """Turns every error of `stage` into a BimodeError; the traceback of an unforeseen one goes to
    DIR/error.log.
    """
    try:
        yield
    except (
        Exception
    ) as error:  # the boundary of a run: one line for the user, everything else in the log
        raise as_user_error(stage, run, error) from error


def as_user_error(stage: str, run: Path, error: Exception) -> BimodeError:
    """The one line for `error`. ConfigErrors stay as they are; others gain the stage and what is
    kept.
    """
    outermost_first = list(causes(error))
    chain = outermost_first[
        ::-1
    ]  # a Ray task error is also an instance of its cause: the cause itself first
    for cause in chain:
        if isinstance(cause, BimodeError):
            return _told(stage, run, cause)
    kept = _kept(run)
    if any(is_full_disk(cause) for cause in chain):
        remove_half_written(run / stage)
        return StageFailed(
            f"{stage}: no space left on the disk of {run}: free some ({kept}; {GO_ON})"
        )
    if denied := next((cause for cause in chain if isinstance(cause, PermissionError)), None):
        return StageFailed(
            f"{stage}: {denied.filename or denied}: {NOT_PERMITTED} ({kept}; {GO_ON})"
        )
    reason = reason_of(outermost_first)
    if ours := _restored(reason):
        return _told(stage, run, ours)
    log, where = run / "error.log", ""
    with suppress(OSError):
        if run.is_dir():
            write_atomic(log, "".join(traceback.format_exception(error)))
            where = f"traceback in {log}; "
    go_on = AGAIN if _comes_again(reason) else GO_ON
    return StageFailed(f"{stage}: {reason} ({kept}; {where}{go_on})")


def _told(stage: str, run: Path, cause: BimodeError) -> BimodeError:
    """An error that has its words already."""
    if isinstance(cause, ConfigError):  # a learner does not know whose it is
        return (
            ConfigError(f"{stage}.{cause.key}", cause.value, cause.fix)
            if cause.key.startswith("learner.")
            else cause
        )
    if isinstance(cause, BusyError):  # nothing has failed
        return cause
    go_on = "" if cause.comes_again else f"; {GO_ON}"
    where = "".join(f" {note}" for note in getattr(cause, "__notes__", ()))
    return type(cause)(f"{stage}: {cause}{where} ({_kept(run)}{go_on})")


def _restored(reason: Reason) -> BimodeError | None:
    """The BimodeError of which Ray has kept only the text, as of one that an actor's constructor
    raised.
    """
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
    """Whether the same command would end in the same way: not what a machine, a disk or the network
    does.
    """
    module, _, name = reason.name.rpartition(".")
    if module.startswith("ray.") or name.startswith(
        "Dist"
    ):  # of Ray itself, and of torch.distributed
        return False
    kind = getattr(builtins, name, None)
    if not isinstance(kind, type):
        return True
    return not issubclass(kind, PASSING) or issubclass(kind, LASTING)


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what Ray and Ray Train wrapped: a task's `cause`, the first failure of a worker
    group.
    """
    at: BaseException | None = error
    while at is not None:
        yield at
        failures = getattr(at, "worker_failures", None) or {}
        nested = [getattr(at, name, None) for name in ("cause", "controller_failure", "_base_exc")]
        at = next(
            (inner for inner in (*nested, *failures.values()) if isinstance(inner, BaseException)),
            None,
        )


def is_full_disk(error: BaseException) -> bool:
    """ENOSPC or a quota's end, also where a library kept only its text, or no more than where its
    writing broke off.
    """
    text = str(error).lower()
    return getattr(error, "errno", None) in FULL_DISK_ERRORS or any(
        words in text for words in FULL_DISK
    )


def _kept(run: Path) -> str:
    sealed = sorted(path.parent.name for path in run.glob("*/manifest.json"))
    return (
        f"kept in {run}: {', '.join(sealed)} and unfinished work"
        if sealed
        else f"unfinished work is kept in {run}"
    )
