"""From whatever went wrong to one line: what failed, what is kept, how to go on."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bimode.errors import NOT_PERMITTED, BimodeError, ConfigError, StarvedError
from bimode.rundir import remove_half_written

GO_ON = "the same command continues"
IN_CREATION = "an error raised in its creation task"
FULL_DISK = ("no space left on device", "disk quota exceeded", "] . unexpected pos")  # the last is all that torch.save says


class StageFailed(BimodeError):
    """A stage that died of something no other BimodeError describes."""


@contextmanager
def reported(stage: str, run: Path) -> Iterator[None]:
    """Turns every error of `stage` into a BimodeError; the traceback of an unforeseen one goes to DIR/error.log."""
    try:
        yield
    except Exception as error:  # the boundary of a run: one line for the user, everything else in the log
        raise as_user_error(stage, run, error) from error


def as_user_error(stage: str, run: Path, error: Exception) -> BimodeError:
    """The one line for `error`. ConfigErrors stay as they are; others gain the stage and what is kept."""
    chain = list(causes(error))[::-1]  # a Ray task error is also an instance of its cause: the cause itself first
    for cause in chain:
        if isinstance(cause, ConfigError):  # a learner does not know whose it is
            return ConfigError(f"{stage}.{cause.key}", cause.value, cause.fix) if cause.key.startswith("learner.") else cause
        if isinstance(cause, BimodeError):
            go_on = "" if isinstance(cause, StarvedError) else f"; {GO_ON}"  # the same again would end in the same way
            return type(cause)(f"{stage}: {cause} ({_kept(run)}{go_on})")
    kept = _kept(run)
    if any(is_full_disk(cause) for cause in chain):
        remove_half_written(run / stage)
        return StageFailed(f"{stage}: no space left on the disk of {run}: free some ({kept}; {GO_ON})")
    if denied := next((cause for cause in chain if isinstance(cause, PermissionError)), None):
        return StageFailed(f"{stage}: {denied.filename or denied}: {NOT_PERMITTED} ({kept}; {GO_ON})")
    log, where = run / "error.log", ""
    with suppress(OSError):
        log.write_text("".join(traceback.format_exception(error)))
        where = f"traceback in {log}; "
    cause = chain[0]
    return StageFailed(f"{stage}: {_what(cause)} ({kept}; {where}{GO_ON})")


def _what(cause: BaseException) -> str:
    """Kind and first line of an error; of an actor that died in its making the last, where Ray has put what killed it."""
    lines = str(cause).strip().splitlines() or [""]
    return lines[-1].strip() if IN_CREATION in lines[0] and len(lines) > 1 else f"{type(cause).__name__}: {lines[0]}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what Ray and Ray Train wrapped: a task's `cause`, the first failure of a worker group."""
    at: BaseException | None = error
    while at is not None:
        yield at
        failures = getattr(at, "worker_failures", None) or {}
        nested = [getattr(at, name, None) for name in ("cause", "controller_failure", "_base_exc")]
        at = next((inner for inner in (*nested, *failures.values()) if isinstance(inner, BaseException)), None)


def is_full_disk(error: BaseException) -> bool:
    """ENOSPC or a quota's end, also where a library kept only its text, or no more than where its writing broke off."""
    text = str(error).lower()
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(words in text for words in FULL_DISK)


def _kept(run: Path) -> str:
    sealed = sorted(path.parent.name for path in run.glob("*/manifest.json"))
    return f"kept in {run}: {', '.join(sealed)} and unfinished work" if sealed else f"unfinished work is kept in {run}"
