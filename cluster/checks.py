"""What Ray needs of this machine, asked before it starts: it would say so in a stack, or after many minutes."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from bimode.errors import ConfigError
from bimode.uri_secrets import refuse_secrets

HTTP = ("http://", "https://")
CONNECT_S = 10.0
SHARED_MEMORY = "/dev/shm"
DISK_STORE = 10**10  # bytes; a larger object store Ray keeps nowhere but in shared memory
LONGEST_TMPDIR = 107 - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")


def check_home() -> None:
    """Raises ConfigError where Ray could not keep its token, without which it starts nothing."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = os.path.expanduser("~")
    try:
        Path(home, ".ray").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = f"Ray keeps a token in it ({error.strerror}); set it to a directory where this user may write"
        raise ConfigError("HOME", home, fix) from None


def check_temporary() -> None:
    """Raises ConfigError where Ray could not make its sockets, whose paths the system bounds (Slurm gives long ones)."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name) or "/tmp"
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        raise ConfigError(
            name, folder, f"is too long for Ray's sockets; set RAY_TMPDIR to at most {LONGEST_TMPDIR} bytes, as /tmp"
        )
    try:
        Path(folder, "ray").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = f"Ray keeps its sockets and logs in it ({error.strerror}); set RAY_TMPDIR to a directory where this user may write"
        raise ConfigError(name, folder, fix) from None


def check_shared_memory(object_store_mb: int) -> str:
    """Returns a warning if /dev/shm is too small for an object store of `object_store_mb` MiB.

    Ray then keeps the store on the disk. Raises ConfigError for one that Ray refuses to keep there.
    """
    free_mb = shutil.disk_usage(SHARED_MEMORY).free >> 20
    if object_store_mb <= free_mb:
        return ""
    lacks = f"{SHARED_MEMORY} has {free_mb} MiB free"
    enlarged = f"enlarge it (docker run --shm-size={object_store_mb}m)"
    fix = f"set cluster.object_store_mb to at most {free_mb}, or {enlarged}"
    may_be_slow = bool(os.environ.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"))
    if object_store_mb << 20 > DISK_STORE and not may_be_slow:
        raise ConfigError("cluster.object_store_mb", object_store_mb, f"{lacks}; {fix}")
    return f"{lacks}, so the object store of {object_store_mb} is kept on the disk, slowly; {fix}"


def check_address(address: str) -> None:
    """Raises ConfigError where nothing listens at RAY_ADDRESS, which Ray tries for many minutes."""
    refuse_secrets("RAY_ADDRESS", address)
    if address.startswith(HTTP):
        raise ConfigError("RAY_ADDRESS", address, "is a dashboard's; here it is HOST:PORT of the head, as ray start says it")
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdigit()):  # auto, local, a Ray client's
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError("RAY_ADDRESS", address, f"no Ray there ({error}); start one, or unset it to use this machine") from None
