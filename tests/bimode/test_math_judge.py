"""The child that compares math: whoever kills it has given no verdict, and what no machine can
hold is wrong.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bimode.errors import UnjudgedError, VerifierLostError
from bimode.grading import math_worker
from bimode.grading.math_worker import MathJudge, PuzzleJudge, ScorerChild


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[MathJudge]:
    monkeypatch.setattr(math_worker, "SECONDS", 20.0)
    judge = MathJudge()
    yield judge
    end(judge)


def end(judge: ScorerChild) -> None:
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


def test_a_child_that_is_killed_is_asked_again_and_two_are_an_error(
    judge: MathJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge.equal("1/2", "0.5")
    kill_when_asked(judge, monkeypatch, 1)
    assert judge.equal("1/2", "0.5"), "a wrong verdict in silence"
    kill_when_asked(judge, monkeypatch, 2)
    with pytest.raises(VerifierLostError, match="killed twice"):
        judge.equal("1/2", "0.5")
    assert judge.equal("1/2", "0.5"), "the next answer has a child again"


def test_the_child_has_a_bound_of_memory(judge: MathJudge) -> None:
    assert judge.equal("1/2", "0.5") and judge._child is not None
    assert resource.prlimit(judge._child.pid, resource.RLIMIT_AS) == (
        math_worker.MEMORY,
        math_worker.MEMORY,
    )


class Sleeping(ScorerChild):
    """A child that answers some questions and sleeps on the others: what cannot be provoked in
    time.
    """

    scorer = "math"

    def _ask(self, child: Any, line: str) -> str | None:
        return None if "slow" in line else "true"


def asked(judge: ScorerChild, *questions: str) -> list[str]:
    """E.g. ["True", "False", "unasked"]."""
    found = []
    for question in questions:
        try:
            found.append(str(judge.passes(question)))
        except UnjudgedError as error:
            assert "verifier more than" in str(error) and "not asked" in str(error)
            found.append("unasked")
    return found


def test_after_ten_answers_too_slow_the_next_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 hostile rows took 83 minutes: now 10 are waited for, and one of each 50 behind 500."""
    judge = Sleeping()
    monkeypatch.setattr(
        judge, "_start", lambda: SimpleNamespace(kill=lambda: None, wait=lambda: -9)
    )
    found = asked(judge, *["slow"] * 1000)
    assert found[:12] == ["False"] * 10 + ["unasked"] * 2
    assert found.count("False") == 20 and found[548:551] == ["unasked", "False", "unasked"]
    judge.new_budget()
    assert asked(judge, "fine", "slow") == ["True", "False"], "another source pays for itself"


def test_rare_slow_answers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of weeks may meet one in a hundred without losing a question."""
    judge = Sleeping()
    monkeypatch.setattr(
        judge, "_start", lambda: SimpleNamespace(kill=lambda: None, wait=lambda: -9)
    )
    assert "unasked" not in asked(judge, *(["fine"] * 99 + ["slow"]) * 20)


def test_a_puzzle_is_scored_in_a_child_with_the_same_bounds() -> None:
    judge = PuzzleJudge()
    assert judge.solves("7", "chain_sum", "7") and judge._child is not None
    assert not judge.solves("8", "chain_sum", "7") and not judge.solves("17", "leg_counting", "7")
    assert resource.prlimit(judge._child.pid, resource.RLIMIT_AS) == (
        math_worker.MEMORY,
        math_worker.MEMORY,
    )
    end(judge)


def test_sympy_evaluates_no_text_in_the_child(tmp_path: Path) -> None:
    """Its own `sympify` and `parse_expr` would; only a grammar of LaTeX is meant to read
    formulas.
    """
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    tried = (
        "import sympy; from bimode.grading.math_worker import _math_scorer\n"
        "passes = _math_scorer()\n"
        f"print(passes({code!r}, '1'), passes('2^3', '8'))\n"
        "for read in (sympy.sympify, sympy.parse_expr):\n"
        f"    try: read({code!r})\n"
        "    except (SyntaxError, sympy.SympifyError): print('refused')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", tried], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == ["False True", "refused", "refused"]
    assert not mark.exists()
