"""What Ray lacks on this machine is one line, with its fix, before it starts."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bimode.errors import ConfigError
from cluster import checks
from cluster.checks import (
    DISK_STORE,
    check_address,
    check_home,
    check_shared_memory,
    temporary_folder,
)


def test_a_home_without_permission_is_said_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a container's arbitrary user; Ray ended in a stack."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(ConfigError, match=f"^HOME = {tmp_path}/file: Ray keeps a token in it"):
        check_home()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    check_home()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of mode 0755 without a token, under umask 022."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    tmp_path.chmod(0o755)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_where_nobody_else_reads_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray wrote it with mode 0644 into a folder of mode 0755: the right to run code, for all."""
    check_home()
    token = home / ".ray" / "auth_token"
    assert (mode(home / ".ray"), mode(token)) == (0o700, 0o600)
    made = token.read_text()
    assert len(made) == 64 and int(made, 16)
    check_home()
    assert token.read_text() == made and os.listdir(home / ".ray") == ["auth_token"]
    assert capsys.readouterr().err == "", "what was closed from the start is not mended"


def test_a_token_of_an_older_run_is_closed_and_that_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("t")
    check_home()
    assert (mode(home / ".ray"), mode(token), token.read_text()) == (0o700, 0o600, "t")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"cluster: {token.parent} was open to other users (055); now it is not",
        f"cluster: {token} was open to other users (044); now it is not",
    ]


def test_no_token_is_made_where_ray_asks_for_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would turn authentication on for the next `ray start`."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_home()
    assert os.listdir(home / ".ray") == []


def test_a_home_may_link_to_another_disk(home: Path) -> None:
    (home / "disk").mkdir()
    (home / ".ray").symlink_to(home / "disk")
    check_home()
    assert mode(home / "disk") == 0o700 and mode(home / "disk" / "auth_token") == 0o600


def test_rays_folder_is_closed_to_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray makes sessions, logs and sockets that all may read and write."""
    shared = home / "s"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(checks, "LONGEST_TMPDIR", 400)
    monkeypatch.setenv("TMPDIR", str(shared))
    folder = temporary_folder()
    assert folder == shared / f"ray-{os.geteuid()}" and mode(folder) == 0o700
    folder.chmod(0o777)
    assert temporary_folder() == folder and mode(folder) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    assert temporary_folder() == folder, "what is closed already is taken as it is"
    monkeypatch.setenv("RAY_TMPDIR", str(home / "new"))
    assert temporary_folder() == home / "new" and mode(home / "new") == 0o700


@pytest.mark.parametrize("plant", ["link", "theirs"])
def test_a_folder_that_another_user_made_first_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    """Its owner could read all that Ray writes there, or lead it elsewhere."""
    monkeypatch.setattr(checks, "LONGEST_TMPDIR", 400)
    monkeypatch.setenv("TMPDIR", str(home))
    folder = home / f"ray-{os.geteuid()}"
    if plant == "link":
        (home / "elsewhere").mkdir()
        folder.symlink_to(home / "elsewhere")
        says = "is a link"
    else:
        if os.geteuid() != 0:
            pytest.skip("gives a folder to another user, as only root may")
        folder.mkdir(mode=0o700)
        os.chown(folder, 65534, 65534)
        says = "belongs to another user"
    with pytest.raises(ConfigError, match=f"^TMPDIR = {folder}: {says}"):
        temporary_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a token to another user, as only root may")
def test_a_token_that_another_user_has_is_refused(home: Path) -> None:
    """Whoever wrote it knows it."""
    check_home()
    os.chown(home / ".ray" / "auth_token", 65534, 65534)
    with pytest.raises(ConfigError, match=r"^HOME = .*auth_token: belongs to another user"):
        check_home()


def test_a_temporary_folder_that_ray_cannot_use_is_said_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line was of a `plasma_store`, and that the same command continues."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + 39 * "a")
    line = r"^TMPDIR = /a+: is too long for Ray's sockets; set RAY_TMPDIR to at most 39 bytes"
    with pytest.raises(ConfigError, match=line):
        temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    line = (
        r"^RAY_TMPDIR = /dev/null/ray-\d+: Ray keeps its sockets and logs in it \(Not a directory\)"
    )
    with pytest.raises(ConfigError, match=line):
        temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert temporary_folder() == Path(f"/tmp/ray-{os.geteuid()}")


def test_a_store_that_shared_memory_does_not_hold_is_said_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container has 64 MiB by default. Ray ended in a stack, or took the disk without a word."""
    monkeypatch.delenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", raising=False)
    usage = SimpleNamespace(total=64 << 20, used=0, free=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    line = r"^cluster.object_store_mb = 16384: /dev/shm has 64 MiB free; set .* at most 64, or"
    with pytest.raises(ConfigError, match=line):
        check_shared_memory(16384)
    assert check_shared_memory(64) == ""
    kept_on_disk = check_shared_memory(512)
    assert "the object store of 512 is kept on the disk" in kept_on_disk
    assert "docker run --shm-size=512m" in kept_on_disk
    monkeypatch.setenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", "1")
    assert "is kept on the disk" in check_shared_memory(16384)


def test_ray_draws_the_line_where_the_check_does() -> None:
    from ray._private import ray_constants

    assert ray_constants.REQUIRE_SHM_SIZE_THRESHOLD == DISK_STORE


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"RAY_ADDRESS = 127.0.0.1:{port}: no Ray there"):
            check_address(f"127.0.0.1:{port}")
        taken.listen()
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="is a dashboard's; here it is HOST:PORT"):
        check_address("http://127.0.0.1:8265")
    for known_to_ray in ("", "auto", "ray://127.0.0.1:9"):
        check_address(known_to_ray)
