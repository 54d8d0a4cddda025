"""The endpoint's keys, from BIMODE_API_KEYS: the path of a file, or the keys themselves."""

from __future__ import annotations

import hashlib
import os
import re
import stat

from bimode.config.endpoint import KEYS, ApiKey
from bimode.errors import ConfigError

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
KEY = re.compile(r"[\w.~+/=-]{16,512}", re.ASCII)  # what RFC 6750 allows after `Bearer `
MAX_BYTES = 1 << 20
HIDDEN = "(its value)"
FORM = (
    "write NAME:KEY, a line or a comma between two, each KEY of 16 to 512 letters, digits, -._~+/="
)


def take_api_keys() -> tuple[ApiKey, ...]:
    """Return the keys of BIMODE_API_KEYS, and delete the variable: no other process inherits it.

    A value that begins with `/` is the path of a file. Raises ConfigError, which never shows a key.
    """
    value = os.environ.pop(KEYS, None)
    if value is None:
        return ()
    is_file = value.startswith("/")
    where = value if is_file else HIDDEN
    text = _read_private(value) if is_file else value
    keys: dict[str, ApiKey] = {}
    digests = set[bytes]()
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if not line.startswith("#")]
    entries = [entry.strip() for line in kept for entry in line.split(",")]
    for number, entry in enumerate(filter(None, entries), 1):
        name, _, key = entry.partition(":")
        digest = hashlib.sha256(key.encode()).digest()
        if not NAME.fullmatch(name) or not KEY.fullmatch(key):
            raise ConfigError(KEYS, where, f"entry {number} is no NAME:KEY; {FORM}")
        if name in keys or digest in digests:
            raise ConfigError(KEYS, where, f"entry {number} repeats a name or a key; use it once")
        keys[name] = ApiKey(name, digest)
        digests.add(digest)
    if not keys:
        raise ConfigError(KEYS, where, f"has no key; {FORM}, or unset it")
    return tuple(keys.values())


def _read_private(path: str) -> str:
    """Return the text of the regular file `path`, which only its owner may read."""
    try:
        with open(path, "rb", opener=_opened_at_once) as file:
            status = os.fstat(file.fileno())
            mode = status.st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(KEYS, path, "is no regular file; name a file of lines NAME:KEY")
            # Kubernetes mounts a secret as root's, readable for the pod's own group
            open_to = 0o037 if status.st_uid == 0 else 0o077
            if mode & open_to:
                raise ConfigError(KEYS, path, f"other users may read it; chmod 600 {path}")
            return file.read(MAX_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(KEYS, path, f"is no text; {FORM}") from None
    except OSError as error:
        fix = f"begins with / and is no file that can be read ({error.strerror}); name one"
        raise ConfigError(KEYS, HIDDEN, fix) from None  # it may be a key


def _opened_at_once(path: str, flags: int) -> int:
    """Open `path` without waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
