"""What Ray lacks on this machine is one line, with its fix, before it starts."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from bimode.errors import ConfigError
from cluster.checks import (
    DISK_STORE,
    check_address,
    check_home,
    check_shared_memory,
    check_temporary,
)


def test_a_home_without_permission_is_said_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a container's arbitrary user; Ray ended in a stack."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(ConfigError, match=f"^HOME = {tmp_path}/file: Ray keeps a token in it"):
        check_home()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    check_home()


def test_a_temporary_folder_that_ray_cannot_use_is_said_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line was of a `plasma_store`, and that the same command continues."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + 39 * "a")
    with pytest.raises(ConfigError, match=r"^TMPDIR = /a+: is too long for Ray's sockets; set RAY_TMPDIR to at most 39 bytes"):
        check_temporary()
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR = /dev/null: Ray keeps its sockets and logs in it \(Not a directory\)"):
        check_temporary()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_temporary()


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
