"""How an endpoint ends: after SIGTERM its requests finish first, after Ctrl-C they are cut."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from pipelines.failure import INTERRUPTED
from pipelines.progress import log_line

TERMINATED = 143  # as a shell reports SIGTERM: requests were cut
POLL_S = 0.25
ANSWER_S = 15.0  # for a busy ingress to answer one poll
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends; Ctrl-C comes from a person who waits for the prompt."""


def wait_for_stop(handle: Any, drain_s: float) -> int:
    """Wait for a signal, and after SIGTERM for the requests of the application at `handle`.

    Return the exit code: 0 after SIGTERM when every request ended whole, 143 when requests were
    cut after `drain_s` seconds or by a second SIGTERM, 130 after Ctrl-C or SIGHUP. From then on
    signals are ignored, so that nothing keeps this process from ending what it started.
    """
    try:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            while True:
                time.sleep(3600)
        except Terminated:
            return drain(handle, drain_s)
    except Terminated:
        log_line("serve: a second SIGTERM: the rest is cut")
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def drain(handle: Any, drain_s: float) -> int:
    """Let the requests at `handle` end for at most `drain_s` seconds; return 0, or 143 if cut."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    deadline = time.monotonic() + drain_s
    idle_polls = 0
    try:
        _answer(handle.begin_drain)
        log_line(f"serve: draining for at most {drain_s:g} s; new requests are refused")
        while True:
            unfinished = _answer(handle.unfinished)
            idle_polls = 0 if unfinished else idle_polls + 1
            if idle_polls == 2:  # the proxy has had time to send the last bytes
                return 0
            if unfinished and time.monotonic() >= deadline:
                log_line(f"serve: {unfinished} requests were cut")
                return TERMINATED
            time.sleep(POLL_S)
    except (RayError, RayServeException, TimeoutError) as error:
        log_line(f"serve: draining failed, requests were cut: {type(error).__name__}")
        return TERMINATED


def _answer(method: Any) -> Any:
    return method.remote().result(timeout_s=ANSWER_S)
