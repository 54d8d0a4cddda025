r"""Symbolic equality by math-verify in a child process that can be killed: ``9^{9^{9^9}}`` must not stop a training run.

math-verify's own time limits are signals: they raise outside the main thread and cannot interrupt one big-integer
operation. So one child per process answers JSON lines, and is replaced when an answer takes longer than `SECONDS` or more than
`MEMORY`. A child that somebody else has killed, as the kernel does where memory is short, says nothing about the answer.
"""

from __future__ import annotations

import json
import logging
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from bimode.errors import VerifierLostError

SECONDS = 5.0
START_SECONDS = 60.0  # the first import of sympy on a busy machine
MEMORY = 4 << 30  # bytes of addresses, so that no answer can use up the machine's
KILLED = (-signal.SIGKILL, -signal.SIGTERM)


class MathJudge:
    """``equal(stated, answer)`` with a time limit; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equal(self, stated: str, answer: str) -> bool:
        """Whether `stated` (free text or LaTeX) equals `answer`; what cannot be decided in time, or in `MEMORY`, is False.

        Raises VerifierLostError if the child was killed, and so was the next that was asked the same.
        """
        with self._lock:
            for _ in range(2):
                child = self._child if self._child is not None and self._child.poll() is None else self._start()
                reply = self._ask(child, json.dumps([stated, answer]) + "\n")
                if reply in ("true", "false"):
                    return reply == "true"
                self._child = None
                if reply is None:  # too slow
                    child.kill()
                if child.wait() not in KILLED or reply is None:  # died of it, e.g. a recursion that ran out of stack
                    return False
        raise VerifierLostError("the maths verifier was killed twice while it compared an answer: is the memory used up?")

    def _ask(self, child: subprocess.Popen[str], line: str) -> str | None:
        """What the child says to `line`; nothing if it is gone, None if it is too slow."""
        assert child.stdin is not None
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._read(child, SECONDS)

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
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
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
