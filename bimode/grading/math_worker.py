r"""Scorers of other packages in a child process that can be killed: ``9^{9^{9^9}}`` must not stop a
training run.

math-verify's own time limits are signals: they raise outside the main thread and cannot interrupt
one big-integer operation. So a child per scorer answers JSON lines, and is replaced when an answer
takes longer than `SECONDS` or more than `MEMORY`. A child that somebody else has killed, as the
kernel does where memory is short, says nothing about the answer.

Answers that cost a child are bounded in number: a hostile data set or a model gone wrong would
otherwise take `SECONDS` for each.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bimode.errors import UnjudgedError, VerifierLostError

SECONDS = 5.0
START_SECONDS = 60.0  # the first import of sympy on a busy machine
MEMORY = 1 << 30  # bytes of addresses, so that no answer can use up the machine's
FREE_LOSSES = 10  # answers that may cost a child,
LOSS_SHARE = 50  # or one of so many, if that is more
# Compared as text: math-verify adds "5 6", multiplies "1.2.3", and takes "101_2" for 101.
UNREADABLE = re.compile(r"\d\s+\d|\d\.\d+\.\d|\.\.|\d_")
EXPONENT = re.compile(r"(\d)[eE]([+-]?\d+)")  # math-verify takes the e of 1e-7 for Euler's number
# What sympy makes of a number of the grammar, and of the names of its own units; no call, no
# attribute
HARMLESS = re.compile(r"[+-]? ?(?:Integer|Float|Symbol) ?\('?[\w.+-]+'? ?\)\s*|[A-Za-z]\w*\s*")
KILLED = (-signal.SIGKILL, -signal.SIGTERM)


class ScorerChild:
    """One scorer in a child process, with limits of time and memory; safe to call from several
    threads.
    """

    scorer: str  # key of SCORERS

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self.new_budget()

    def new_budget(self) -> None:
        """Reset the cost of answers so far: the next ones come from another source."""
        self._asked = self._lost = 0

    def passes(self, *question: Any) -> bool:
        """Whether the scorer says yes to `question`; what is not decided in time or `MEMORY` is
        False.

        Raises UnjudgedError if too many answers have cost a child, and VerifierLostError if the
        child was killed, and so was the next that was asked the same.
        """
        with self._lock:
            self._check_budget()
            for _ in range(2):
                child = (
                    self._child
                    if self._child is not None and self._child.poll() is None
                    else self._start()
                )
                reply = self._ask(child, json.dumps(question) + "\n")
                if reply in ("true", "false"):
                    return reply == "true"
                self._child = None
                if reply is None:  # too slow
                    child.kill()
                if (
                    child.wait() not in KILLED or reply is None
                ):  # died of it, e.g. a recursion that ran out of stack
                    self._lost += 1
                    return False
        raise VerifierLostError(
            f"the {self.scorer} verifier was killed twice while it compared an answer: is the"
            " memory used up?"
        )

    def _check_budget(self) -> None:
        self._asked += 1
        if self._lost >= max(FREE_LOSSES, self._asked // LOSS_SHARE):
            raise UnjudgedError(
                f"{self._lost} of the {self._asked - 1} answers before it took the {self.scorer} "
                f"verifier more than {SECONDS:g} s or {MEMORY >> 20} MB, so it was not asked"
            )

    def _ask(self, child: subprocess.Popen[str], line: str) -> str | None:
        """Return the child's reply to `line`: empty if it is gone, None if it is too slow."""
        assert child.stdin is not None
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._read(child, SECONDS)

    def _start(self) -> subprocess.Popen[str]:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bimode.grading.math_worker", self.scorer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        if self._read(self._child, START_SECONDS) != "ready":
            raise RuntimeError(
                f"the {self.scorer} verifier did not start; is its package installed?"
            )
        return self._child

    @staticmethod
    def _read(child: subprocess.Popen[str], seconds: float) -> str | None:
        """Read one line of the child, or None after `seconds`."""
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], seconds)
        return child.stdout.readline().strip() if ready else None


class MathJudge(ScorerChild):
    """Compares formulas by math-verify."""

    scorer = "math"

    def equal(self, stated: str, answer: str) -> bool:
        """Whether the formula `stated` equals `answer`. Raises as `passes`."""
        return self.passes(stated, answer)


class PuzzleJudge(ScorerChild):
    """Scores puzzles by reasoning-gym."""

    scorer = "puzzle"

    def solves(self, stated: str, task: str, answer: str) -> bool:
        """Whether `stated` has the full score in `task`, where `answer` is right. Raises as
        `passes`.
        """
        return self.passes(stated, task, answer)


def _serve(scorer: str) -> None:
    """The child: answers lines until its parent closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies, sys.stdout = sys.stdout, sys.stderr  # what a package prints is no reply
    passes = SCORERS[scorer]()
    print("ready", flush=True, file=replies)
    for line in sys.stdin:
        print(json.dumps(passes(*json.loads(line))), flush=True, file=replies)


def _puzzle_scorer() -> Callable[[str, str, str], bool]:
    import reasoning_gym

    def passes(stated: str, task: str, answer: str) -> bool:
        score = reasoning_gym.get_score_answer_fn(task)
        try:
            return float(score(stated, {"answer": answer})) == 1.0
        except (ValueError, TypeError, ArithmeticError):  # of what is no number
            return False

    return passes


def _math_scorer() -> Callable[[str, str], bool]:
    from math_verify import grader, verify
    from sympy.parsing import sympy_parser

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # each warns on every call that its own limit is off
    sympy_parser.eval_expr = partial(_evaluate_harmless, sympy_parser.eval_expr)
    compare = grader.sympy_numeric_eq
    grader.sympy_numeric_eq = partial(_equal_values, compare)

    def passes(stated: str, answer: str) -> bool:
        stated, answer = (" ".join(formula.split()) for formula in (stated, answer))
        if any(map(UNREADABLE.search, (stated, answer))):
            return stated == answer
        return bool(verify(_parsed(answer), _parsed(stated), timeout_seconds=None))

    return passes


def _evaluate_harmless(evaluate: Callable[..., Any], code: str, *scope: Any) -> Any:
    """Evaluates the Python that sympy makes of a text if it is one number or name, and nothing
    else.
    """
    if HARMLESS.fullmatch(code) is None:
        raise SyntaxError("only numbers and names are evaluated")
    return evaluate(code, *scope)


SCORERS: dict[str, Callable[[], Callable[..., bool]]] = {
    "math": _math_scorer,
    "puzzle": _puzzle_scorer,
}


def _parsed(formula: str) -> list[Any]:
    """Parses all of `formula`: by default math-verify would find a number in any text."""
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig()
    config = replace(config, normalization_config=replace(config.normalization_config, units=False))
    latex = EXPONENT.sub(r"\1 \\times 10^{\2}", formula.replace("**", "^"))
    return list(parse(f"${latex}$", extraction_config=[config], parsing_timeout=None))


def _equal_values(compare: Callable[..., bool], a: Any, b: Any, *places: int) -> bool:
    """Compares rationals exactly and other values by the digits of a decimal, at least 7 of them.

    math-verify's own `compare` rounds to 6 decimal places: all values below 1e-6 would be equal.
    """
    from sympy import Expr, Float

    if not all(isinstance(value, Expr) and value.is_number for value in (a, b)):
        return compare(a, b, *places)
    if a.is_rational and b.is_rational:
        return bool(a.doit() == b.doit())
    written = [str(each).partition("e")[0] for each in a.atoms(Float) | b.atoms(Float)]
    digits = max((len(each.replace(".", "").strip("-0")) for each in written), default=15)
    kept = min(max(7, digits), 15)
    return str(a.evalf(kept)) == str(b.evalf(kept))


if __name__ == "__main__":
    _serve(sys.argv[1])
