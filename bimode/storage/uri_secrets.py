"""Credentials inside a URI: found, hidden, refused. A run writes its recipe down and publishes
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from bimode.errors import ConfigError

FIX = (
    "holds a credential, which others could read; set it in the environment (AWS_*) instead, "
    "or use the instance's role"
)
PLACES = (
    "abfs",
    "abfss",
    "hdfs",
    "viewfs",
)  # schemes whose `name@` names a container or an account
WEB = ("http", "https")  # schemes whose `host:8265/` names a port
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://")
PARAMETER = re.compile(r"([?&;#])([^=?&;#\s]+)=([^&;#]*)")
SECRET_NAME = re.compile(
    "(secret|secretkey|accesskey|accesskeyid|accessid|accountkey|privatekey|apikey|token|password"
    "|passwd|passphrase|pwd|signature|credentials?)$|^(sig|sas|key|auth|authorization|pass|jwt)$"
)


def without_secrets(text: str) -> str:
    """Return `text`, one value or several URIs, with `***` for the credentials in it."""
    first, *others = SCHEME.split(text)  # text, scheme, rest, scheme, rest ...
    parts = [first]
    for scheme, rest in zip(others[::2], others[1::2], strict=True):
        hidden = f"***@{rest.rpartition('@')[2]}" if _has_user(scheme.lower(), rest) else rest
        parts += [scheme, "://", hidden]
    return PARAMETER.sub(_hide_value, "".join(parts))


def refuse_secrets(key: str, value: Any) -> None:
    """Raise ConfigError for the first text in `value`, a nest of lists and tables, with a
    secret.
    """
    for path, text in _texts(key, value):
        if (shown := without_secrets(text)) != text:
            raise ConfigError(without_secrets(path), shown, FIX)


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in `value` with its key, and the names of keys."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            path = f"{key}.{name}" if key else str(name)
            yield path, str(name)
            yield from _texts(path, inner)
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from _texts(f"{key}.{at}", inner)


def _has_user(scheme: str, rest: str) -> bool:
    """Whether `rest`, what follows `scheme://`, begins with a user name or a password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        user = authority.rpartition("@")[0]
        return ":" in user or not (scheme in PLACES or user == "anonymous")
    _, colon, port = authority.partition(":")
    has_port = scheme in WEB and (port.isdigit() or authority.startswith("["))
    return bool(colon) and not has_port and "@" in rest  # a password with a slash in it


def _hide_value(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    plain = re.sub(r"[^a-z]", "", unquote(name).lower())
    return f"{mark}{name}=***" if value and SECRET_NAME.search(plain) else found[0]
