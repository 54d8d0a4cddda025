"""Files of a run in a place where others may write: modes by the umask, and nothing is written
through what was planted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bimode.errors import ConfigError
from bimode.rl.ledger import FILE, Ledger
from bimode.rl.timeline import Trace
from bimode.storage.run_dir import own_file, update_run_manifest, write_atomic
from bimode.storage.versions import exclusive, is_at_work

TEXT = "the victim's own\n"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("mask", "file", "folder"),
    [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o007, 0o660, 0o770)],
)
def test_files_have_the_mode_that_the_umask_allows(
    tmp_path: Path, umask: Callable[[int], int], mask: int, file: int, folder: int
) -> None:
    """A manifest was readable for all whatever the umask said."""
    umask(mask)
    run = tmp_path / "run"
    update_run_manifest(run, lambda manifest: manifest.update(a=1))
    Ledger(run / "ledger")
    Trace(run / "trace.json")
    with exclusive(run):
        pass
    files = [run / name for name in ("manifest.json", "trace.json", ".lock", f"ledger/{FILE}")]
    assert {mode(path) for path in files} == {file}
    assert {mode(run), mode(run / "ledger")} == {folder}


def lock(path: Path) -> None:
    with exclusive(path.parent):
        pass


OPENED = {".lock": lock, FILE: lambda path: Ledger(path.parent), "trace.json": Trace}


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("made"))


def second_name(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, victim: Path) -> None:
    path.mkdir()


def device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/full")


@pytest.mark.parametrize("name", OPENED)
@pytest.mark.parametrize("plant", [link, dangling, second_name, pipe, folder, device])
def test_nothing_is_written_through_what_was_planted(
    tmp_path: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    """A lock that was a link emptied the file that it led to."""
    victim = tmp_path / "victim.txt"
    victim.write_text(TEXT)
    run = tmp_path / "shared"
    run.mkdir()
    plant(run / name, victim)
    with pytest.raises(ConfigError, match=rf"^--out = {run}/{name}: is no plain file of this run"):
        OPENED[name](run / name)
    assert victim.read_text() == TEXT and not (tmp_path / "made").exists()
    if name == ".lock":
        with pytest.raises(ConfigError):  # a pipe had no end
            is_at_work(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, as only root may")
def test_a_file_of_another_user_is_none_of_ours(tmp_path: Path) -> None:
    """But in that user's own folder it is the run's: a team, or a mount that shows one owner."""
    lock = tmp_path / ".lock"
    lock.write_text("")
    os.chown(lock, 65534, 65534)
    with pytest.raises(ConfigError, match="is no plain file of this run"), exclusive(tmp_path):
        pass
    os.chown(tmp_path, 65534, 65534)
    with exclusive(tmp_path):
        assert lock.read_text().startswith("process ")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, as only root may")
def test_a_groups_folder_is_the_groups(tmp_path: Path) -> None:
    """One of a team goes on with a run that another has begun; not where everybody may write."""
    lock = tmp_path / ".lock"
    lock.write_text("")
    os.chown(lock, 65534, 1234)
    os.chown(tmp_path, 0, 1234)
    tmp_path.chmod(0o2775)
    with exclusive(tmp_path):
        assert lock.read_text().startswith("process ")
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="is no plain file of this run"), exclusive(tmp_path):
        pass


def test_a_report_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text(TEXT)
    (tmp_path / "report.json").symlink_to(victim)
    write_atomic(tmp_path / "report.json", "{}")
    assert victim.read_text() == TEXT and (tmp_path / "report.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "victim.txt"]


def test_an_own_file_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        with open(tmp_path / "metrics.jsonl", "a", opener=own_file) as file:
            file.write("1\n")
    assert (tmp_path / "metrics.jsonl").read_text() == "1\n1\n"
