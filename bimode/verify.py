r"""The one judge of answers: tags, rewards and evaluation all call `is_right`, so that they agree by construction.

Typed and small, because a maths verifier cannot compare words (math-verify calls "circle" and "circle" different).
What is judged is the answer after ``</think>``: a response whose think block never closes is wrong. Numbers and choices
take the last ``\boxed{...}``, else what follows the last "answer is" / "answer:", else the whole text, which must then
be nothing but the number, in plain text, in bold (``**5**``) or as a formula (``$5$``): a list of guesses never passes,
nor do two different letters. `math` takes the last ``\boxed{...}`` too, as DeepSeek-R1's graders do (math-verify alone
would make a set of several), else whatever math-verify finds last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from bimode.errors import ConfigError
from bimode.math_judge import MathJudge
from bimode.modes import parse_response
from bimode.records import Completion, Prompt
from bimode.rundir import digest_json, digest_path

MAX_CHARS = 2000  # of a judged answer: bounds what a symbolic parser can be made to do
LEAD_IN = re.compile(r"answer[\s*]*(?:is|:)[\s*]*:?[\s*]*", re.IGNORECASE)
MINUS = "\u2212"  # as typesetters and models write it
INT = re.compile(rf"[+{MINUS}-]?\d+")
NUMBER = re.compile(rf"[+{MINUS}-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,3}})?|[+{MINUS}-]?\d+/\d+")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
TEXT = re.compile(r"\\(?:text|textbf|mathrm)\{([^{}]*)\}")
AROUND = "*$ \t\n\r"  # what an answer may be set in
PERCENT = re.compile(r"\s*(?:\\?%|per ?cent)$", re.IGNORECASE)
OPTION = re.compile(r"\(([A-Za-z])\)|([A-Za-z])(?:[.):]|$)")
SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
OTHER_OPTION = re.compile(  # behind the first: in brackets, or beside it, where "a cat" and "I think" name none
    r"(?<!\w)\(([A-Za-z])\)|^\W*(?:or\b|and\b|[,;/&+|])\W*([A-HJ-Z]\b(?! [a-z])|[A-Za-z](?=[.):,;]|\W*$))"
)


def is_right(completion: Completion, prompt: Prompt) -> bool:
    """Whether `completion` came to its end with the right answer: one that was cut off may be the beginning of another one,
    as "2" is of "24".
    """
    return completion.finished and is_correct(completion.text, prompt.answer, prompt.verifier, prompt.verifier_args)


def is_correct(text: str, answer: str, verifier: str, verifier_args: str) -> bool:
    """Whether the response `text` (with or without its leading ``<think>``) ends in `answer`.

    `verifier_args` is a JSON object, e.g. ``{"rel_tol": 0.05}`` for `number`. Raises ConfigError for an unknown verifier.
    """
    judge = VERIFIERS.get(verifier)
    if judge is None:
        raise ConfigError("verifier", verifier, f"known: {', '.join(VERIFIERS)}")
    response = parse_response(text)
    if not response.closed or not response.answer or len(response.answer) > MAX_CHARS:
        return False
    return judge(response.answer, answer, json.loads(verifier_args))


@cache
def code_digest() -> str:
    """Of the code that judges: a verdict that is kept holds as long as this does."""
    return digest_json([digest_path(Path(__file__).with_name(f"{name}.py")) for name in ("verify", "math_judge", "modes")])


def final_answer(text: str) -> str:
    r"""The part of a free-form answer that states it: last ``\boxed{}``, else after the last "answer is", else all."""
    if (boxed := last_box(text)) is not None:
        return TEXT.sub(r"\1", boxed).strip()
    *_, last = LEAD_IN.split(text)
    return last.lstrip(AROUND).rstrip(f"{AROUND}.")


def last_box(text: str) -> str | None:
    r"""What the last ``\boxed{}`` of `text` holds; None without one, or where it does not end."""
    _, box, rest = text.rpartition(r"\boxed{")
    depth = 1
    for at, char in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return rest[:at]
    return None


def _exact(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    return text.split() == answer.split()


def _int(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """50 % of what is asked for in per cent is 50."""
    stated = PERCENT.sub("", plain_number(final_answer(text)))
    return INT.fullmatch(stated) is not None and int(stated) == int(plain_number(answer))


def _number(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """``50%`` may be meant as 50 or as 0.5, as for math-verify, where it is compared with a number without the sign."""
    final = final_answer(text)
    stated, gold = (_as_number(PERCENT.sub("", words)) for words in (final, answer))
    if stated is None or gold is None:
        return False
    tolerance = max(Fraction(str(args.get("abs_tol", 0))), abs(gold) * Fraction(str(args.get("rel_tol", 0))))
    scale = Fraction(100) ** ((PERCENT.search(answer) is not None) - (PERCENT.search(final) is not None))
    return any(abs(value - gold) <= tolerance for value in (stated, stated * scale))


def is_number(text: str) -> bool:
    """Whether `text` spells an answer to `number`: ``1,234.5``, ``3/4``, ``12%``."""
    return NUMBER.fullmatch(PERCENT.sub("", plain_number(text))) is not None


def plain_number(text: str) -> str:
    """`text` with its numbers as Python reads them: without separators of thousands, and with ``-`` for a minus."""
    return THOUSANDS.sub("", text).replace(MINUS, "-")


def _as_number(text: str) -> Fraction | None:
    """Exact, so that 0.1 + 0.2 is no surprise; None for what is no number."""
    plain = plain_number(text)
    if NUMBER.fullmatch(plain) is None:
        return None
    try:
        return Fraction(plain)
    except ZeroDivisionError:
        return None


def _choice(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """A letter ("B", "(b)", "B. the cat") or a word ("yes", "circle"); case and end punctuation do not matter.

    An answer that names another letter as well is none: in brackets anywhere ("(A) is wrong, (B)"), or beside the first
    ("A) or B"). Where it was announced ("The answer is (B). (A) is ..."), what stands in sentences behind it is no answer.
    """
    gold, stated = _word(answer), final_answer(text)
    if len(gold) == 1 and gold.isascii() and gold.isalpha():
        option = OPTION.match(stated)
        behind = stated[option.end() :] if option else ""
        others = OTHER_OPTION.finditer(SENTENCE_END.split(behind, 1)[0] if LEAD_IN.search(text) else behind)
        named = [(match[1] or match[2]).casefold() for match in (option, *others) if match]
        return bool(named) and set(named) == {gold}
    return _word(stated) == gold


def _word(text: str) -> str:
    return " ".join(text.casefold().split()).strip("().!")


def _open(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """Free text, which no rule can mark: never right. Curation asks a judge model about such a row instead of counting."""
    return False


def _math(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    boxed = last_box(text)
    return _math_judge().equal(text if boxed is None else rf"\boxed{{{boxed}}}", answer)


@cache
def _math_judge() -> MathJudge:
    return MathJudge()


def _reasoning_gym(text: str, answer: str, args: Mapping[str, Any]) -> bool:
    """The puzzle's own scorer on its own entry; partial credit is wrong, and so is what makes the scorer raise."""
    entry = args["entry"]
    try:
        return float(_scorer(entry["metadata"]["source_dataset"])(final_answer(text), entry)) == 1.0
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError):
        return False  # some scorers parse by brute force, e.g. prime_factorization raises ValueError on prose


@cache
def _scorer(task: str) -> Callable[[str, Mapping[str, Any]], float]:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(task)  # type: ignore[no-any-return]


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
