"""What Ray needs of this machine, asked before it starts: it would say so in a stack, or after many
minutes.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from bimode.errors import ConfigError
from bimode.storage.uri_secrets import refuse_secrets

HTTP = ("http://", "https://")
CONNECT_S = 10.0
SHARED_MEMORY = "/dev/shm"
DISK_STORE = 10**10  # bytes; a larger object store Ray keeps nowhere but in shared memory
LONGEST_TMPDIR = 107 - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")


def check_home() -> None:
    """Makes Ray's token readable by this user alone: it is the right to run code as this user.

    Raises ConfigError where Ray could not keep it, without which it starts nothing.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = os.path.expanduser("~")
    token = Path(home, ".ray", "auth_token").resolve()  # a link in one's home is one's own
    try:
        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        close_to_others("HOME", token.parent)
        if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not token.exists():
            _write_token(token)
        if token.exists():
            close_to_others("HOME", token)
    except OSError as error:
        fix = (
            f"Ray keeps a token in it ({error.strerror}); "
            "set it to a directory where this user may write"
        )
        raise ConfigError("HOME", home, fix) from None


def _write_token(path: Path) -> None:
    """As Ray does, but readable by this user alone from its first byte on."""
    new = path.with_name(f".auth_token-{token_hex(8)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token_hex(32))
    with suppress(FileExistsError):  # another run was faster
        os.link(new, path)
    new.unlink()


def close_to_others(key: str, path: Path) -> None:
    """Takes all permissions on `path` from others, and says so where they had some.

    Raises ConfigError for a link and for what belongs to another user.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigError(key, path, "is a link, which others may turn; remove it") from None
    try:
        status = os.fstat(handle)
        uid = os.geteuid()
        if status.st_uid == 0 != uid:
            return  # an administrator gave the token, or a secret is mounted
        if status.st_uid != uid:
            fix = "belongs to another user, who could read what Ray writes; remove it"
            raise ConfigError(key, path, fix)
        if mode := stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(handle, status.st_mode & 0o700)
            opened = f"cluster: {path} was open to other users ({mode:03o}); now it is not"
            print(opened, file=sys.stderr, flush=True)
    finally:
        os.close(handle)


def temporary_folder() -> Path:
    """Makes the folder in which Ray keeps its sockets, logs and spilled objects.

    Ray gives all users all rights to them, so the folder is this user's alone: TMPDIR itself where
    it is, else `ray-UID` in it. Raises ConfigError where Ray could not make its sockets, whose
    paths the system bounds (Slurm gives long ones).
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = Path(os.environ.get(name) or "/tmp").resolve()
    uid = os.geteuid()
    with suppress(OSError):  # what is not there yet is made below
        status = folder.stat()
        if status.st_uid != uid or status.st_mode & 0o077:
            folder = folder / f"ray-{uid}"
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        fix = f"is too long for Ray's sockets; set RAY_TMPDIR to at most {LONGEST_TMPDIR} bytes"
        raise ConfigError(name, folder, f"{fix}, as a folder of /tmp with mode 0700")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        close_to_others(name, folder)
    except OSError as error:
        fix = (
            f"Ray keeps its sockets and logs in it ({error.strerror}); "
            "set RAY_TMPDIR to a directory where this user may write"
        )
        raise ConfigError(name, folder, fix) from None
    return folder


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
        raise ConfigError(
            "RAY_ADDRESS",
            address,
            "is a dashboard's; here it is HOST:PORT of the head, as ray start says it",
        )
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdigit()):  # auto, local, a Ray client's
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "RAY_ADDRESS",
            address,
            f"no Ray there ({error}); start one, or unset it to use this machine",
        ) from None
