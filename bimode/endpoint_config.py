"""The settings of `bimode serve`: where it listens, what it serves, and how much it accepts."""

from __future__ import annotations

from dataclasses import dataclass

MAX_REQUESTS = 512
REQUEST_TIMEOUT_S = 600.0
DRAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One endpoint. Durations are in seconds.

    `max_requests` bounds the requests that run or wait; `allow_origins` are the web origins that a
    browser may send requests from; `drain_s` is how long a stop waits for running requests.
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
