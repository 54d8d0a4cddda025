"""Recompute equations in prose: ``12 * (3 + 4) = 84``, chains ``a = b = c``, equations with units
``9 pears - 2 pears = 7 pears``.

Only a whole step in one unit is checked: a side that touches a letter, a variable, an exponent or a
word like "of" is skipped, and a rounded result counts as right.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from bimode.grading.answer_reader import THOUSANDS

LATEX = ((r"\times", "*"), (r"\cdot", "*"), (r"\div", "\u00f7"))
BY_FRACTION = re.compile(r"\u00f7 ?(\d+/\d+)")  # 14 divided by 1/2 is 28
SPELLINGS = str.maketrans(
    {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "$": None, "\u20ac": None, "\u00a3": None}
)
TIMES = re.compile(r"(?<=[\d)]) ?[xX\u00b7] ?(?=[\d(])")
TOKEN = re.compile(
    r"(?P<commas>(?<![\d.])\d[\d.]*+(?:,\d[\d.]*+)+%?)"  # 1,5 is two numbers, or one and a half
    r"|(?P<num>\d{1,18}(?:\.\d{1,9})?%?|\.\d{1,9}%?)|(?P<op>[-+*/])|(?P<par>[()])"
    r"|(?P<eq>(?<![=!<>])=(?!=))|(?P<word>\w+|\S)"
)
SIDE = ("num", "op", "par")
PARENTHESES = {"(": 1, ")": -1}
MOST_TOKENS = 40  # of a side
# words that make what follows part of something else
BEFORE = frozenset(
    re.findall(
        r"\w+",
        """
    half third quarter twice double triple times plus minus over per by mod modulo power than
    about approximately around root square cube sin cos tan log ln exp sqrt max min
    """,
    )
)
# before "of"
PARTS = frozenset(
    re.findall(
        r"\w+",
        """
    half third quarter fourth fifth percent fraction rest square cube root power multiple
    """,
    )
)
UNIT = re.compile(r"[a-z]{3,}")
AFTER = frozenset(
    re.findall(
        r"\w+",
        """
    of times plus minus over mod modulo r remainder percent squared cubed hundred thousand
    million billion dozen
    """,
    )
)
BINDING = BEFORE | AFTER
OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Token(NamedTuple):
    """A number, an operator, a parenthesis, ``=``, or anything else (`word`), with its place in the
    line.
    """

    kind: str
    text: str
    start: int
    end: int
    unit: str = ""  # the word behind a number inside a side


def wrong_written_step(line: str) -> str:
    """The first wrong step of one line of a trace, as it stands there but for the spelling of
    operators; empty if none is.
    """
    if "=" not in line:
        return ""
    for old, new in LATEX:
        line = line.replace(old, new)
    line = BY_FRACTION.sub(r"/(\1)", line).translate(SPELLINGS)
    line = TIMES.sub(" * ", THOUSANDS.sub("", line))
    found = [Token(str(m.lastgroup), m[0], m.start(), m.end()) for m in TOKEN.finditer(line)]
    tokens = _with_units(found)
    for at, token in enumerate(tokens):
        if token.kind == "eq":
            left, right = _left_side(line, tokens, at), _right(tokens, at)
            is_step = left and right and len(left) + len(right) > 2
            if is_step and _differ(left, right):
                return line[left[0].start : right[-1].end]
    return ""


def _with_units(tokens: Sequence[Token]) -> list[Token]:
    """`tokens` without words that stand between a number and what goes on with it; the number has
    them as its unit.
    """
    found: list[Token] = []
    for at, token in enumerate(tokens):
        goes_on = at + 1 < len(tokens) and tokens[at + 1].kind in ("op", "eq", "par")
        if (
            goes_on
            and found
            and found[-1].kind == "num"
            and UNIT.fullmatch(token.text)
            and token.text not in BINDING
        ):
            found[-1] = found[-1]._replace(unit=token.text.rstrip("s"), end=token.end)
        else:
            found.append(token)
    return found


def _left_side(line: str, tokens: Sequence[Token], at: int) -> Sequence[Token]:
    """The side that ends before ``=`` number `at`; empty if it may be part of something else."""
    start, depth = at, 0
    while start > 0 and at - start < MOST_TOKENS and tokens[start - 1].kind in SIDE:
        depth += PARENTHESES.get(tokens[start - 1].text, 0)
        if depth > 0:  # one that closes behind the step
            break
        start -= 1
    if start < at and tokens[start].text in "-*" and not line[: tokens[start].start].strip():
        is_list = line[tokens[start].end :].startswith(" ")
        return tokens[start + is_list : at]
    while start < at and tokens[start].text == ")":
        start += 1
    side = tokens[start:at]
    if not side or side[0].kind == "op":
        return ()
    if start == 0 or tokens[start - 1].kind == "eq":
        return side
    before = tokens[start - 1]
    word = before.text.casefold()
    is_glued = before.end == side[0].start and word not in ";,([\"'"
    is_name = len(side) == 1 and word.isalnum()  # "bar 3 = 4 + 5"
    is_part = (
        start > 1
        and word == "of"
        and (tokens[start - 2].kind == "num" or tokens[start - 2].text.casefold() in PARTS)
    )
    binds = is_part or word in BEFORE or (len(word) == 1 and word.isalpha())
    return () if is_glued or is_name or binds else side


def _right(tokens: Sequence[Token], at: int) -> Sequence[Token]:
    """The side that begins after ``=`` number `at`; empty if it may be part of something else."""
    stop, depth = at + 1, 0
    while stop < len(tokens) and stop - at <= MOST_TOKENS and tokens[stop].kind in SIDE:
        depth += PARENTHESES.get(tokens[stop].text, 0)
        if depth < 0:  # one that has opened before the step
            break
        stop += 1
    while stop > at + 1 and tokens[stop - 1].text == "(":
        stop -= 1
    side = tokens[at + 1 : stop]
    if not side or side[-1].kind == "op":
        return ()
    if stop == len(tokens) or tokens[stop].kind == "eq":
        return side
    after = tokens[stop]
    is_glued = after.start == side[-1].end and after.text not in ".,;!?()]\"'"
    if is_glued or after.text.casefold() in AFTER:
        return ()
    unit = after.text.rstrip("s") if UNIT.fullmatch(after.text) and side[-1].kind == "num" else ""
    return [*side[:-1], side[-1]._replace(unit=side[-1].unit or unit)]


def _differ(left: Sequence[Token], right: Sequence[Token]) -> bool:
    """Whether both sides have a value, in one unit, and it is not the same; ``3 + 8 = 11 + 1 = 12``
    is meant well.
    """
    one, other = _value(left), _value(right)
    if one is None or other is None:
        return False
    units = {token.unit for token in left if token.unit}
    if units and right[-1].unit:
        units.add(right[-1].unit)
    return len(units) < 2 and one != other and not _is_rounded(one, _first_number(right))


def _first_number(side: Sequence[Token]) -> str:
    """The number that a side begins with, and its sign; empty where it begins with anything
    else.
    """
    sign = int(side[0].text == "-")
    is_number = len(side) > sign and side[sign].kind == "num"
    return "".join(token.text for token in side[: sign + 1]) if is_number else ""


def _is_rounded(value: Fraction, shown: str) -> bool:
    """Whether `shown` is the number `value`, cut or rounded to its digits (to a whole number also
    upwards).
    """
    number = _value([Token("num", shown, 0, 0)])
    if number is None or value * number < 0:
        return False
    decimals = len(shown.rstrip("%").partition(".")[2])
    unit = Fraction(1, 10**decimals) / (100 if shown.endswith("%") else 1)
    if (value / unit).denominator == 1:  # nothing to round
        return value == number
    off = abs(value) - abs(number)
    return -(unit if not decimals else unit / 2) <= off < unit


def _spelled(text: str) -> str:
    return f"({text[:-1]}/100)" if text.endswith("%") else text


def _value(side: Sequence[Token]) -> Fraction | None:
    """The value of a side, exactly; None if it has none, and where `100 - 20%` may mean 20 % of the
    100.
    """
    shares = {token.text.endswith("%") for token in side if token.kind == "num"}
    if len(shares) == 2:
        for one, two in pairwise(side):
            if one.text in ("+", "-") and two.text.endswith("%"):
                return None
    spelled = [_spelled(token.text) for token in side]
    try:
        return _evaluate(ast.parse(" ".join(spelled), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(str(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate(left), _evaluate(right))
    raise ValueError(f"no arithmetic: {ast.dump(node)}")
