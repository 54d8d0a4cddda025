"""How `bimode serve` ends: by which signal, with which code, and what it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from pipelines import serve_stop
from pipelines.serve_stop import TERMINATED, drain
from tests.conftest import REPO


@dataclass
class Ingress:
    """A handle whose application has `left` requests at each poll, or fails."""

    left: list[Any]
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def result(timeout_s: float) -> Any:
            self.asked.append(name)
            answer = None if name == "begin_drain" else self.left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return SimpleNamespace(remote=lambda: SimpleNamespace(result=result))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_stop, "POLL_S", 0.001)


def test_it_ends_once_every_request_has(capsys: pytest.CaptureFixture[str]) -> None:
    ingress = Ingress([3, 1, 0, 1, 0, 0, 9])
    assert drain(ingress, 60.0) == 0
    assert ingress.asked[0] == "begin_drain" and ingress.left == [9], "idle twice in a row"
    assert "cut" not in capsys.readouterr().err


def test_requests_that_outlast_the_time_are_counted_as_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert drain(Ingress([2] * 999), 0.0) == TERMINATED
    assert "serve: 2 requests were cut" in capsys.readouterr().err
    assert drain(Ingress([0, 0]), 0.0) == 0, "nothing was cut"


@pytest.mark.parametrize("fault", [TimeoutError(), RayActorError()])
def test_an_endpoint_that_no_longer_answers_is_not_waited_for(
    fault: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drain(Ingress([2, fault]), 60.0) == TERMINATED
    assert "serve: draining failed, requests were cut" in capsys.readouterr().err


WAITING = """
import signal, sys, threading, time
from tests.pipelines.test_serve_stop import Ingress
from pipelines.serve_stop import _terminate, wait_for_stop

class Busy(list):
    def pop(self, at):
        return 1

def say_when_ready():
    while signal.getsignal(signal.SIGTERM) is not _terminate:
        time.sleep(0.01)
    print("ready", flush=True)

threading.Thread(target=say_when_ready).start()
sys.exit(wait_for_stop(Ingress(Busy()), 60.0))
"""


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGTERM], TERMINATED),
        ([signal.SIGTERM, signal.SIGINT], 130),
    ],
)
def test_each_signal_has_its_code(signals: list[signal.Signals], code: int) -> None:
    """A second SIGTERM ended the process before it had ended what it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    for number in signals[:-1]:
        process.send_signal(number)
        assert "draining for at most 60 s" in process.stderr.readline()
    process.send_signal(signals[-1])
    assert process.wait(30) == code
