"""Errors users meet: one line each, with the key, the value and the fix. All survive pickling
between actors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATTERN = "*?[]\\"
NOT_PERMITTED = "this user has no permission for it; give it, or name another"


class BimodeError(Exception):
    """Base of every error that the command line prints as one line."""

    exit_code = 1
    comes_again = False  # whether the same command would end in the same way


class ConfigError(BimodeError, ValueError):
    """A recipe, flag or input that cannot work; raised before anything starts (exit code 2)."""

    exit_code = 2
    comes_again = True

    def __init__(self, key: str, value: object, fix: str) -> None:
        self.key, self.value, self.fix = key, value, fix
        super().__init__(key, value, fix)

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.fix}"


@dataclass(frozen=True, slots=True)
class RowNote:
    """An error that leaves the block has a note with the row's id, which stays with it from process
    to process (PEP 678).
    """

    id: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"in row {self.id}")


@contextmanager
def config_errors(key: str = "", *, prefix: str = "") -> Iterator[None]:
    """Name the errors of the block after what the user typed.

    With `key`, a ConfigError gets that key instead of its own, and what this user may not read or
    write is a ConfigError too. With `prefix`, its own key gets the prefix:
    `curate.sources.1.tasks`.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(key or f"{prefix}.{error.key}", error.value, error.fix) from None
    except PermissionError as error:
        if not key:
            raise
        raise ConfigError(key, error.filename or error, NOT_PERMITTED) from None


def check_name(key: str, path: Path) -> None:
    """Raises ConfigError for a directory in whose name vLLM would see a pattern, and read others
    with it or nothing at all.
    """
    if found := sorted(set(str(path)) & set(PATTERN)):
        raise ConfigError(
            key,
            path,
            f"has {' '.join(found)} in it, which vLLM takes for a pattern; rename it, or name"
            " another",
        )


def one_of(key: str, value: str, known: Sequence[str]) -> str:
    """Return `value`, which the user gave as `key`. Raises ConfigError unless it is `known`."""
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise ConfigError(
            key,
            value,
            f"use one of {', '.join(known)}{f'; did you mean {near[0]}?' if near else ''}",
        )
    return value


class RefusedPromptError(ConfigError):
    """A text, an image or a prompt that a model or its engine refuses.

    It costs its row, its question or its group, and ends no stage that can do without it. Example:
    ``RefusedPromptError("prompt", "long_prompt", "126 tokens, at most 125")``.
    """

    @property
    def reason(self) -> str:
        """The word under which curation rejects such a row
        (`data_curation.checks.validate.REASONS`).
        """
        return str(self.value)

    @property
    def detail(self) -> str:
        """What was found, and the limit."""
        return self.fix


class BusyError(BimodeError, RuntimeError):
    """A run directory in which another run is at work: nothing has failed, and a later try may find
    it free.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class StorageError(BimodeError, RuntimeError):
    """A bucket does not respond. The file may be sound, so no row is rejected; running the same
    command again retries.
    """


class DivergedError(BimodeError, RuntimeError):
    """A loss or gradient that is not finite; raised before the optimizer moves."""


class MismatchError(BimodeError, RuntimeError):
    """Engine and learner give the same tokens other log-probabilities; raised before the optimizer
    moves.
    """

    comes_again = True


class StarvedError(BimodeError, RuntimeError):
    """A stage has nothing to work on (empty data set, every group filtered)."""

    comes_again = True


class StaleWeightsError(BimodeError, RuntimeError):
    """A rollout worker answered with another policy version than requested."""


class CorruptWeightsError(BimodeError, RuntimeError):
    """Weights arrived damaged."""


class IncompleteGroupError(BimodeError, ValueError):
    """A rollout group lacks a completion, or a reward is missing or not finite."""

    comes_again = True


class WorkerLostError(BimodeError, RuntimeError):
    """A rollout worker is gone and cannot be replaced in this run."""


class LearnerLostError(BimodeError, RuntimeError):
    """The learner group lost a rank, and with it every step since the last checkpoint."""


class RayLostError(BimodeError, RuntimeError):
    """A process of Ray died, and with it all that ran on it."""


class VerifierLostError(BimodeError, RuntimeError):
    """The verifier was killed: an answer has no verdict, instead of a wrong one."""


class UnjudgedError(BimodeError, ValueError):
    """An answer was not judged, since too many before it took too long: it costs its row or its
    group.
    """


class LedgerError(BimodeError, RuntimeError):
    """A ledger whose lines do not add up: a group that jumps, ends twice or is left out, or a
    sealed part that was changed.
    """

    comes_again = True
