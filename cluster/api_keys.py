"""The endpoint's keys, from BIMODE_API_KEYS: the path of a file, or the keys themselves."""

from __future__ import annotations

import hashlib
import os
import re
import stat

from bimode.endpoint_config import KEYS, ApiKey
from bimode.errors import ConfigError

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
KEY = re.compile(r"[\w.~+/=-]{16,512}", re.ASCII)  # what RFC 6750 allows after `Bearer `
MAX_BYTES = 1 << 20
FORM = "write NAME:KEY, a line or a comma between two, each KEY of 16 to 512 letters, digits, -._~+/="


def take_api_keys() -> tuple[ApiKey, ...]:
    """Return the keys of BIMODE_API_KEYS, and delete the variable: no other process inherits it.

    A value that begins with `/` is the path of a file. Raises ConfigError, which never shows a key.
    """
    value = os.environ.pop(KEYS, None)
    if value is None:
        return ()
    is_file = value.startswith("/")
    where = value if is_file else "(its value)"
    text = _read_private(value) if is_file else value
    keys: dict[str, ApiKey] = {}
    digests = set[bytes]()
    entries = [entry.strip() for entry in re.split(r"[,\n]", text)]
    for number, entry in enumerate(filter(None, entries), 1):
        if entry.startswith("#"):
            continue
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
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ConfigError(KEYS, path, f"cannot be read ({error}); name a file") from None
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(KEYS, path, "is no regular file; name a file of lines NAME:KEY")
        if mode & 0o077:
            raise ConfigError(KEYS, path, f"other users may read it; chmod 600 {path}")
        try:
            return file.read(MAX_BYTES).decode()
        except UnicodeDecodeError:
            raise ConfigError(KEYS, path, f"is no text; {FORM}") from None
