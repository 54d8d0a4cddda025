"""The endpoint's keys: a file or a variable, never shown, never inherited; and no open host without
one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bimode.config.endpoint import ApiKey, EndpointConfig, check_access, is_loopback
from bimode.errors import ConfigError
from cluster.api_keys import take_api_keys

NAME = "BIMODE_API_KEYS"
A, B = "a-long-enough.key", "another+long/key=="


def named(name: str, key: str) -> ApiKey:
    return ApiKey(name, hashlib.sha256(key.encode()).digest())


def private(path: Path, text: bytes, mode: int = 0o600) -> str:
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


def test_keys_come_from_the_variable_or_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert take_api_keys() == ()
    text = f"# platform\nalice:{A}\n\nbob:{B}\n".encode()
    for value in (f"alice:{A},bob:{B}", f"alice:{A}\nbob:{B}\n", private(tmp_path / "keys", text)):
        monkeypatch.setenv(NAME, value)
        assert take_api_keys() == (named("alice", A), named("bob", B))
        assert NAME not in os.environ, "workers inherit the environment of this process"
    assert A not in repr(named("alice", A))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "has no key"),
        (" , \n", "has no key"),
        (f"/{A}", "is no file that can be read"),
        (A, "entry 1 is no NAME:KEY"),
        (f"alice:{A},bob", "entry 2 is no NAME:KEY"),
        (f"alice:{A[:15]}", "entry 1 is no NAME:KEY"),
        (f"alice:{A} {A}", "entry 1 is no NAME:KEY"),
        (f"alice:{A}\u00e9", "entry 1 is no NAME:KEY"),
        (f"al ice:{A}", "entry 1 is no NAME:KEY"),
        (f"alice:{A},alice:{B}", "entry 2 repeats"),
        (f"alice:{A},bob:{A}", "entry 2 repeats"),
    ],
)
def test_what_is_no_list_of_keys_is_refused_and_not_shown(
    value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ConfigError, match=says) as refused:
        take_api_keys()
    assert A[:15] not in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_others_may_read_or_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "link").symlink_to(private(tmp_path / "shown", f"alice:{A}".encode(), 0o644))
    cases = {
        private(tmp_path / "group", f"alice:{A}".encode(), 0o660): f"chmod 600 {tmp_path}/group",
        private(tmp_path / "world", f"alice:{A}".encode(), 0o604): f"chmod 600 {tmp_path}/world",
        private(tmp_path / "writable", f"alice:{A}".encode(), 0o602): "chmod 600",
        private(tmp_path / "bytes", b"\xff"): "is no text",
        str(tmp_path / "link"): "chmod 600",
        str(tmp_path / "fifo"): "is no regular file",
        str(tmp_path): "is no file that can be read",
        "/dev/zero": "is no regular file",
        str(tmp_path / "none"): "is no file that can be read",
    }
    for value, says in cases.items():
        monkeypatch.setenv(NAME, value)
        with pytest.raises(ConfigError, match=says):
            take_api_keys()


def test_a_group_may_read_the_file_if_it_is_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes mounts a secret so, for a pod that is not root."""
    monkeypatch.setenv(
        NAME, private(tmp_path / "secret", f"# alice, the first\nalice:{A}".encode(), 0o440)
    )
    if os.geteuid():
        with pytest.raises(ConfigError, match="chmod 600"):
            take_api_keys()
    else:
        assert [key.name for key in take_api_keys()] == ["alice"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.1", "localhost", "::1"])
def test_a_loopback_host_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_access(EndpointConfig(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "0", "", "192.0.2.7", "::ffff:192.0.2.7", "no.such.host.invalid"]
)
def test_an_open_host_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^--host = {host}: .*{NAME}=/path"):
        check_access(EndpointConfig(host=host))
    check_access(EndpointConfig(host=host, api_keys=(named("alice", A),)))


def test_an_origin_is_named_as_a_browser_sends_it() -> None:
    for origin in ("https://chat.example", "http://localhost:3000", "http://[::1]:8080"):
        check_access(EndpointConfig(allow_origins=(origin,)))
    for wrong in (
        "*",
        "null",
        "chat.example",
        "https://chat.example/",
        "https://*.example",
        "https://a.example:x",
        "https://Chat.example",
        "ftp://a.example",
        "",
        "https://a.example\n",
    ):
        with pytest.raises(ConfigError, match=r"^--allow-origin"):
            check_access(EndpointConfig(allow_origins=("https://chat.example", wrong)))
