r"""Symbolic equality by math-verify in a child process that can be killed: ``9^{9^{9^9}}`` must not stop a training run.

math-verify's own time limits are signals: they raise outside the main thread and cannot interrupt one big-integer
operation. So one child per process answers JSON lines, and is replaced when an answer takes longer than `SECONDS`.
"""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
import threading
from pathlib import Path

SECONDS = 5.0
START_SECONDS = 60.0  # the first import of sympy on a busy machine


class MathJudge:
    """``equal(stated, answer)`` with a time limit; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equal(self, stated: str, answer: str) -> bool:
        """Whether `stated` (free text or LaTeX) equals `answer`; what cannot be decided in time is False."""
        with self._lock:
            child = self._child if self._child is not None and self._child.poll() is None else self._start()
            assert child.stdin is not None
            child.stdin.write(json.dumps([stated, answer]) + "\n")
            child.stdin.flush()
            reply = self._read(child, SECONDS)
            if reply not in ("true", "false"):  # too slow, or died of it (a recursion that ran out of stack)
                child.kill()
                child.wait()
                self._child = None
            return reply == "true"

    def _start(self) -> subprocess.Popen[str]:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bimode.math_judge"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
        if self._read(self._child, START_SECONDS) != "ready":
            raise RuntimeError("the maths verifier did not start; is math-verify installed?")
        return self._child

    @staticmethod
    def _read(child: subprocess.Popen[str], seconds: float) -> str | None:
        """One line of the child, or None after `seconds`."""
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], seconds)
        return child.stdout.readline().strip() if ready else None


def _serve() -> None:
    """The child: answers lines until its parent closes the pipe."""
    from math_verify import parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each warns on every call that its own limit is off
    print("ready", flush=True)
    for line in sys.stdin:
        stated, answer = json.loads(line)
        gold = parse(f"${answer}$", parsing_timeout=None)
        given = parse(stated, parsing_timeout=None) or parse(f"${stated}$", parsing_timeout=None)
        equal = bool(gold) and bool(given) and bool(verify(gold, given, timeout_seconds=None))
        print(json.dumps(equal), flush=True)


if __name__ == "__main__":
    _serve()
