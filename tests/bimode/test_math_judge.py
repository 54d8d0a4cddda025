"""The child that compares maths: whoever kills it has given no verdict, and what no machine can hold is wrong."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bimode import math_judge
from bimode.errors import VerifierLostError
from bimode.math_judge import MathJudge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[MathJudge]:
    monkeypatch.setattr(math_judge, "SECONDS", 20.0)
    judge = MathJudge()
    yield judge
    if judge._child is not None:
        judge._child.kill()
        judge._child.wait()


def kill_when_asked(judge: MathJudge, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Each of the next `times` children is killed while it has a question, before it can answer."""
    left = iter(range(times))
    ask = MathJudge._ask

    def ask_the_doomed(child: Any, line: str) -> str | None:
        if next(left, None) is not None:
            os.kill(child.pid, signal.SIGSTOP)
            threading.Timer(0.2, os.kill, (child.pid, signal.SIGKILL)).start()
        return ask(judge, child, line)

    monkeypatch.setattr(judge, "_ask", ask_the_doomed)


def test_a_child_that_is_killed_is_asked_again_and_two_are_an_error(judge: MathJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge.equal("1/2", "0.5")
    kill_when_asked(judge, monkeypatch, 1)
    assert judge.equal("1/2", "0.5"), "a wrong verdict in silence"
    kill_when_asked(judge, monkeypatch, 2)
    with pytest.raises(VerifierLostError, match="killed twice"):
        judge.equal("1/2", "0.5")
    assert judge.equal("1/2", "0.5"), "the next answer has a child again"


def test_the_child_has_a_bound_of_memory(judge: MathJudge) -> None:
    assert judge.equal("1/2", "0.5") and judge._child is not None
    assert resource.prlimit(judge._child.pid, resource.RLIMIT_AS) == (math_judge.MEMORY, math_judge.MEMORY)
