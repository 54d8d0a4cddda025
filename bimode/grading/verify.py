r"""The one judge of answers: tags, rewards and evaluation all call `is_right`, so that they agree
by construction.

Typed and small, because a math verifier cannot compare words (math-verify calls "circle" and
"circle" different). What is judged is the answer after ``</think>``: a response whose think block
never closes is wrong. Gold answer and response go through one reader
(`bimode.grading.answer_reader`): a list of guesses never passes, nor do two different letters.
Numbers are compared exactly, formulas by math-verify in a child process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from bimode import plugins
from bimode.errors import ConfigError
from bimode.grading.answer_reader import (
    REASON,
    Quantity,
    final_answer,
    read_formula,
    read_letters,
    read_number,
)
from bimode.grading.math_worker import MathJudge, PuzzleJudge
from bimode.grading.verifier_args import MAX_ANSWER, read_arguments
from bimode.modes import parse_response
from bimode.records import Completion, Prompt
from bimode.storage.run_dir import digest_json, digest_path

RIGHT = 1.0  # the score of a right answer; only a verifier of the user gives less than all of it
MAX_CHARS = MAX_ANSWER  # of a judged answer: bounds what a symbolic parser can be made to do
INT = re.compile(r"[+\u2212-]?\d+")
JUDGING_MODULES = (
    "grading/verify",
    "grading/verifier_args",
    "grading/answer_reader",
    "grading/math_worker",
    "modes",
)
YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
NAMED = re.compile(r"\s*\\?[A-Za-z]\w*(?:\{\w+\}|\(\w\))?\s*=(?!=)")
SEVERAL = re.compile(r"[,;]|\\pm|\b(?:or|and)\b")
FLOAT_DIGITS = Context(prec=15)  # what a float64 carries: 0.1 + 0.2 is written 0.30000000000000004


def is_right(completion: Completion, prompt: Prompt) -> bool:
    """Whether `completion` came to its end with the right answer (`completion_score`)."""
    return completion_score(completion, prompt) >= RIGHT


def completion_score(completion: Completion, prompt: Prompt) -> float:
    """Return the verifier's score of `completion`, from 0 to 1, and 0 for one that was cut off: it
    may be the beginning of another answer, as "2" is of "24".
    """
    if not completion.finished:
        return 0.0
    return score(completion.text, prompt.answer, prompt.verifier, prompt.verifier_args)


def is_correct(text: str, answer: str, verifier: str, verifier_args: str) -> bool:
    """Whether the response `text` (with or without its leading ``<think>``) ends in `answer`."""
    return score(text, answer, verifier, verifier_args) >= RIGHT


def score(text: str, answer: str, verifier: str, verifier_args: str) -> float:
    """Return the score of the response `text`: 1 or 0, or what the user's own verifier says.

    `verifier_args` is a JSON object, e.g. ``{"rel_tol": 0.05}`` for `number`. Raises ConfigError
    for an unknown verifier and for arguments that it does not take, PluginError for a fault of the
    user's own verifier, and as `ScorerChild.passes`.
    """
    is_own = plugins.is_plugin(verifier)
    if not is_own and verifier not in VERIFIERS:
        raise ConfigError("verifier", verifier, f"known: {', '.join(VERIFIERS)}")
    args = read_arguments(verifier, verifier_args)
    response = parse_response(text)
    if not response.closed or not response.answer or len(response.answer) > MAX_CHARS:
        return 0.0
    if is_own:
        return _own_score(verifier, response.answer, answer, args)
    return float(VERIFIERS[verifier](response.answer, answer, args))


def _own_score(name: str, response: str, answer: str, args: Mapping[str, Any]) -> float:
    value = plugins.call("verifier", name, response, answer, **args)
    is_number = isinstance(value, (bool, int, float)) and math.isfinite(value)
    if not is_number or not 0 <= value <= RIGHT:
        raise plugins.PluginError("verifier", name, f"returned {value!r}, not a score of 0 to 1")
    return float(value)


@cache
def code_digest() -> str:
    """Of the code that judges: a verdict that is kept holds as long as this does."""
    package = Path(__file__).parents[1]
    modules = (package / f"{name}.py" for name in JUDGING_MODULES)
    return digest_json([digest_path(module) for module in modules])


def _exact(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    return text.split() == answer.split()


def _int(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Compares integers that are written as such: 15.0 is not 15; 50 % is 50."""
    stated, gold = read_number(text), read_number(answer)
    if stated is None or gold is None or not stated.agrees(gold):
        return False
    return not {".", "/"} & set(stated.digits) and stated.value == gold.value


def _number(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Compares values exactly or within ``abs_tol`` and ``rel_tol``; a year has no ``rel_tol``."""
    stated, gold = read_number(text), read_number(answer)
    if stated is None or gold is None:
        return False
    relative = 0 if YEAR.fullmatch(gold.digits) else args.get("rel_tol", 0)
    absolute = Fraction(str(args.get("abs_tol", 0)))
    tolerance = max(absolute, abs(gold.value) * Fraction(str(relative)))
    return _same_value(stated, gold, tolerance)


def _same_value(stated: Quantity, gold: Quantity, tolerance: Fraction = Fraction(0)) -> bool:
    """Compares rationals exactly, and decimals by the digits of a float64.

    ``50%`` may be meant as 50 or as 0.5, as for math-verify, where the other number has no unit.
    """
    if not stated.agrees(gold):
        return False
    scale = Fraction(100) ** ((gold.unit == "%") - (stated.unit == "%"))
    values = (stated.value, stated.value * scale)
    if any(abs(value - gold.value) <= tolerance for value in values):
        return True
    if "." not in stated.digits + gold.digits:
        return False
    return any(_rounded(value) == _rounded(gold.value) for value in values)


def _rounded(value: Fraction) -> Decimal:
    return FLOAT_DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))


def is_number(text: str) -> bool:
    """Whether `text` spells an answer to `number`: ``1,234.5``, ``3/4``, ``12%``, ``5 cm``."""
    return read_number(text) is not None


def _choice(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Compares a letter ("B", "(b)", "Option B") or a word ("yes", "circle"), whatever the case.

    A text that names a second letter is wrong, unless it announced the first: "The answer is (B).
    (A) is too small."
    """
    gold, stated = _word(final_answer(answer)), final_answer(text)
    if len(gold) == 1 and gold.isascii() and gold.isalpha():
        return read_letters(text) == {gold}
    return bool(gold) and gold in (_word(stated), _word(REASON.split(stated)[0]))


def _word(text: str) -> str:
    """Without case, blanks and end punctuation; the ``!`` of ``5!`` is none."""
    plain = " ".join(text.casefold().split()).strip("().")
    return plain.strip("!") if plain.rstrip("!")[-1:].isalpha() else plain


def _open(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Free text, which no rule can mark: never right. Curation asks a judge model about such a row
    instead of counting.
    """
    return False


def _math(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Compares numbers as `number` does without a tolerance, and formulas by math-verify."""
    stated, gold = read_number(text), read_number(answer)
    if stated is not None and gold is not None:
        return _same_value(stated, gold)
    (formula, unit), (wanted, gold_unit) = read_formula(text), read_formula(answer)
    if unit and gold_unit and unit != gold_unit:
        return False
    if "," in formula and not SEVERAL.search(wanted):  # math-verify takes "5, 5" for 5
        return False
    if "=" in formula and "=" not in wanted and not NAMED.match(formula):  # and "2x = 5" too
        return False
    return _math_judge().equal(formula, wanted)


@cache
def _math_judge() -> MathJudge:
    return MathJudge()


def _reasoning_gym(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """The puzzle's own scorer, which is shown its own answer and nothing else of a row; partial
    credit is wrong.
    """
    entry = args["entry"]
    return _puzzle_judge().solves(
        final_answer(text), entry["metadata"]["source_dataset"], entry["answer"]
    )


@cache
def _puzzle_judge() -> PuzzleJudge:
    return PuzzleJudge()


def new_budget() -> None:
    """Begins the count of answers that cost a child anew: rows of another source pay for
    themselves.
    """
    for judge in (_math_judge(), _puzzle_judge()):
        judge.new_budget()


VERIFIERS: dict[str, Callable[[str, str, Mapping[str, Any]], bool]] = {
    "exact": _exact,
    "int": _int,
    "number": _number,
    "choice": _choice,
    "math": _math,
    "reasoning_gym": _reasoning_gym,
    "open": _open,
}
OPEN = "open"
