"""A stage folder that is published in whole versions, and the lock that keeps two runs out of one
directory.

    DIR/curate/versions/0001/   data/  tags/  rejects/  ...  manifest.json
    DIR/curate/versions/0002/
    DIR/curate/current          -> versions/0002      replaced in one step: a reader sees a
                                                      whole version, this one or the one before
    DIR/curate/data             -> current/data       so is everything else that a version holds

A reader that must not see two versions in one reading resolves `current` once and reads below it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimode.errors import BusyError, ConfigError
from bimode.storage.run_dir import StageDir, own_file


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Hold DIR/.lock while the block runs; the system releases it however this process ends. Raises
    BusyError.
    """
    with open(run / ".lock", "a+", opener=own_file) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"{run}: another run is at work there ({file.read(200).strip()}); wait for its end,"
                " or stop it"
            ) from None
        except OSError as error:
            fix = (
                f"cannot be locked ({error.strerror}); name a directory on a file system that has"
                " POSIX locks"
            )
            raise ConfigError("--out", run, fix) from None
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()} since"
            f" {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        file.flush()
        yield
        file.truncate(0)


def is_at_work(run: Path) -> bool:
    """Whether a run holds DIR/.lock now, on any machine."""
    try:
        with open(run / ".lock", opener=own_file) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


@dataclass(frozen=True, slots=True)
class VersionedDir(StageDir):
    """A stage folder that is published as versions; the newest `keep` stay."""

    keep: int = 3

    @property
    def work(self) -> Path:
        return self.path / "versions" / ".partial"

    def claim(self, work: Mapping[str, Any], settings: Any = None) -> str:
        """Move nothing aside: what is published stays until the next version is complete."""
        if (
            self.path.is_dir()
            and not (self.path / "versions").is_dir()
            and any(self.path.iterdir())
        ):
            raise ConfigError(
                "--out",
                self.path,
                "holds a stage of an older layout, without versions; name another directory",
            )
        current, versions = self.path / "current", self._versions()
        if not current.is_symlink() and (
            current.exists() or len(versions) > 1
        ):  # all versions would count as unpublished
            link = (
                f", or make the link: ln -sfn versions/{versions[-1].name} current"
                if versions
                else ""
            )
            fix = (
                "is no link to a version any more, as in a copy that keeps no links; copy it again"
                f" with `cp -a`{link}"
            )
            raise ConfigError("--out", current, fix)
        return ""

    def begin(self) -> None:
        """Make an empty folder to work in; remove what an interrupted run left unpublished."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        published = self._published()
        for version in self._versions():
            if int(version.name) > published:
                shutil.rmtree(version)

    def seal(
        self,
        config: Any,
        inputs: Mapping[str, str],
        outputs: tuple[str, ...],
        counts: Mapping[str, Any],
        started: float,
    ) -> None:
        """Write the manifest into the new version and make it the current one."""
        StageDir.seal(self, config, inputs, outputs, counts, started)
        name = f"{self._published() + 1:04d}"
        self.work.rename(self.path / "versions" / name)
        _link(self.path / "current", f"versions/{name}")
        for entry in (*outputs, self.manifest.name):
            if not (self.path / entry).is_symlink():
                _link(self.path / entry, f"current/{entry}")
        for version in self._versions()[: -self.keep]:
            shutil.rmtree(version)

    def _versions(self) -> list[Path]:
        return sorted(
            (self.path / "versions").glob("[0-9]*"), key=lambda version: int(version.name)
        )

    def _published(self) -> int:
        current = self.path / "current"
        return int(current.readlink().name) if current.is_symlink() else 0


def _link(place: Path, target: str) -> None:
    """Make or replace a relative link at `place` in one step."""
    new = place.with_name(f".{place.name}-new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(place)
