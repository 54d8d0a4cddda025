"""The settings of `bimode serve`: where it listens, what it serves, and how much it accepts."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field

from bimode.errors import ConfigError

MAX_REQUESTS = 512
REQUEST_TIMEOUT_S = 600.0
DRAIN_S = 60.0
ORIGIN = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)
KEYS = "BIMODE_API_KEYS"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that a client may use; the key itself is not kept.

    `digest` is its SHA-256, and `name` is what logs and metrics call it.
    """

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One endpoint. Durations are in seconds.

    `max_requests` bounds the requests that run or wait; `allow_origins` are the web origins that a
    browser may send requests from; `drain_s` is how long a stop waits for running requests.
    Without `api_keys` no client needs a key.
    """

    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    gpus: int = 0
    max_model_len: int = 0
    max_requests: int = MAX_REQUESTS
    request_timeout_s: float = REQUEST_TIMEOUT_S
    drain_s: float = DRAIN_S
    allow_origins: tuple[str, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()

    @property
    def is_local(self) -> bool:
        """True if the endpoint listens on loopback addresses alone."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return True if every address of `host` is a loopback address; a name is resolved."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return all(address.is_loopback for address in addresses)


def check_access(endpoint: EndpointConfig) -> None:
    """Raise ConfigError for an open host without keys, or for a web origin that is none."""
    if not endpoint.api_keys and not endpoint.is_local:
        fix = f"opens the model to the network; set {KEYS}=/path/of/a/file of lines NAME:KEY"
        raise ConfigError("--host", endpoint.host, f"{fix}, or use --host 127.0.0.1")
    for origin in endpoint.allow_origins:
        if not ORIGIN.fullmatch(origin):
            fix = "name each origin as a browser sends it, scheme://host[:port] in lower case"
            raise ConfigError("--allow-origin", origin, f"{fix}, without a path and without *")
        if origin != origin.lower():
            raise ConfigError("--allow-origin", origin, f"browsers send {origin.lower()}")
