"""Published versions: whole or absent, numbered, kept so many; and one run at a time in a
directory.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bimode.errors import BusyError, ConfigError
from bimode.storage.run_dir import StageDir, digest_path, write_atomic
from bimode.storage.versions import VersionedDir, exclusive, is_at_work


def publish(stage: VersionedDir, text: str) -> None:
    stage.begin()
    (stage.work / "data").mkdir()
    (stage.work / "data" / "train.txt").write_text(text)
    stage.seal({"text": text}, {}, ("data",), {}, time.monotonic())


def test_a_reader_sees_the_version_before_until_the_next_is_whole(tmp_path: Path) -> None:
    stage = VersionedDir(tmp_path, "curate", keep=2)
    assert not stage.is_current({"text": "one"}, {})
    publish(stage, "one")
    assert stage.is_current({"text": "one"}, {}) and not stage.is_current({"text": "two"}, {})
    first = digest_path(tmp_path / "curate" / "data")
    stage.begin()
    (stage.work / "data").mkdir()
    (stage.work / "data" / "train.txt").write_text("half of tw")
    assert (tmp_path / "curate" / "data" / "train.txt").read_text() == "one"
    publish(stage, "two")
    assert (tmp_path / "curate" / "data" / "train.txt").read_text() == "two"
    assert digest_path(tmp_path / "curate" / "data") != first
    assert sorted(p.name for p in (tmp_path / "curate" / "versions").iterdir()) == ["0001", "0002"]


def test_the_newest_versions_stay_and_an_unpublished_one_goes(tmp_path: Path) -> None:
    stage = VersionedDir(tmp_path, "curate", keep=2)
    for text in ("one", "two", "three"):
        publish(stage, text)
    versions = tmp_path / "curate" / "versions"
    assert sorted(p.name for p in versions.iterdir()) == ["0002", "0003"]
    (versions / "0004").mkdir()  # killed between the rename and the link
    stage.begin()
    assert sorted(p.name for p in versions.iterdir()) == [".partial", "0002", "0003"]
    assert (tmp_path / "curate" / "current").readlink() == Path("versions/0003")


@pytest.mark.parametrize("copied", [True, False])
def test_versions_of_a_copy_without_links_are_not_taken_for_unpublished_ones(
    tmp_path: Path, copied: bool
) -> None:
    stage = VersionedDir(tmp_path, "curate")
    publish(stage, "one")
    publish(stage, "two")
    current = tmp_path / "curate" / "current"
    current.unlink()
    if copied:
        current.mkdir()
    with pytest.raises(ConfigError, match=r"is no link .* ln -sfn versions/0002 current$"):
        stage.claim({})
    for version in (tmp_path / "curate" / "versions").iterdir():
        shutil.rmtree(version)
    if copied:
        with pytest.raises(ConfigError, match=r"is no link .* with `cp -a`$"):
            stage.claim({})


def test_version_10000_is_newer_than_version_9999(tmp_path: Path) -> None:
    stage = VersionedDir(tmp_path, "curate", keep=2)
    publish(stage, "one")
    (tmp_path / "curate" / "versions" / "0001").rename(tmp_path / "curate" / "versions" / "9998")
    (tmp_path / "curate" / "current").unlink()
    (tmp_path / "curate" / "current").symlink_to("versions/9998")
    for text in ("two", "three", "four"):
        publish(stage, text)
    assert sorted(path.name for path in (tmp_path / "curate" / "versions").iterdir()) == [
        "10000",
        "10001",
    ]


def test_a_folder_of_the_older_layout_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "curate" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="older layout"):
        VersionedDir(tmp_path, "curate").claim({})


def test_a_second_run_in_a_directory_is_refused_and_a_killed_one_holds_nothing(
    tmp_path: Path,
) -> None:
    hold = "import sys, time; from pathlib import Path\n"
    hold += "from bimode.storage.versions import exclusive\n"
    hold += "with exclusive(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"in\n"
    busy = f"another run is at work there .process {other.pid} on"
    with pytest.raises(BusyError, match=busy) as caught, exclusive(tmp_path):
        raise AssertionError("two runs in one directory")
    assert caught.value.exit_code == 75, "whoever watches a schedule tells it from a failure"
    assert is_at_work(tmp_path)
    other.kill()
    other.wait()
    assert not is_at_work(tmp_path) and not is_at_work(tmp_path / "never")
    with exclusive(tmp_path):
        pass


def test_a_clock_that_is_set_back_changes_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest once held a negative number of seconds."""
    stage = StageDir(tmp_path, "toy")
    started = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    stage.seal({}, {}, (), {}, started)
    entry = json.loads(stage.manifest.read_text())
    assert 0 <= entry["seconds"] < 60 and entry["started"] == 1_000_000.0 - entry["seconds"]


def test_a_disk_that_is_full_leaves_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
