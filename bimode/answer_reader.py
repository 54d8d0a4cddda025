r"""Reads what an answer states: gold answers and responses alike.

The statement is the last ``\boxed{}``, else the line behind the last ``####``, else what follows the
last "answer is", else the whole text. A number may be written in LaTeX, with separators of
thousands, as money, as ``x = 5``, with one unit behind it. A letter is an option's name.

An announced statement ends at its first full stop or reason ("because ..."). A statement that lists
several numbers or takes its number back has none, and a text that names two letters has named both.
Every pattern is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LEAD_IN = re.compile(
    r"(?<!wrong )(?<!incorrect )(?<!other )(?:answer|correct (?:option|choice))"
    r"[\s*]*(?:is|:|would be|should be)[\s*]*:?[\s*]*",
    re.IGNORECASE,
)
AROUND = "*$` \t\n\r"  # what an answer may be set in
STOP = re.compile(
    r"[.;](?=\s)|\n|,?\s\(?(?:because|since|as(?! well)|which (?:is|means|equals))\b", re.IGNORECASE
)
HEDGE = re.compile(
    r"\b(?:or|either|maybe|perhaps|possibl[ey]|alternatively|another|others?|also|both|guess|might"
    r"|could|may|wait|actually|but|however|instead|no|not|nor|wrong|incorrect|unsure|second)\b",
    re.IGNORECASE,
)
LISTED = re.compile(r"\W*+(?:[A-Za-z]\s*[=:)]\s*)?[+-]?\d")  # "5\n6" and "x = 5; y = 6" are lists

FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: "-", 0x2013: "-"}
THOUSANDS = re.compile(  # 1,234 but neither 0,125 nor 1234,567 nor 0.5,123
    r"(?<=\d)(?<!\b0)(?<!\d{4})(?<!\.\d)(?<!\.\d\d)(?<!\.\d{3})"
    r"(?:,|\{,\}|,\\!|\\,)(?=\d{3}(?!\d))"
)
STYLE = re.compile(r"\\(?:text|mathrm|textrm|textbf|mathbf|mathit|boldsymbol|mbox)\{([^{}]*)\}")
SPACING = re.compile(r"\\(?:[()\[\]!,;:]|(?:left|right|displaystyle)(?![A-Za-z]))|~")
DEGREES = re.compile(r"\^\{?\\circ\}?|\u00b0")
MIXED = re.compile(r"(?<=\d)(?=\\[dtc]?frac)")
PART = r"(?:\{([+-]?\d+(?:\.\d+)?)\}|(\d))"
FRACTION = re.compile(rf"\\[dtc]?frac ?{PART} ?{PART}")
POWER = re.compile(r"(?<=\d) ?(?:\\times|\\cdot|[*x\u00d7\u00b7]) ?10 ?\^ ?\{?([+-]?\d{1,3})(?!\d)\}?")
SCALES = {"thousand": "e3", "million": "e6", "billion": "e9", "trillion": "e12"}
SCALE = re.compile(rf"(?<=\d) ({'|'.join(SCALES)})\b")

DIGITS = r"(?:\d+ )?\d+/\d+|\d+\.\d+/\d+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
MONEY = r"USD|EUR|GBP|[$\u20ac\u00a3\u00a5]"
SHORT = (
    "mm|cm|km|mg|kg|ml|mL|kW|kWh|Hz|kHz|MHz|GHz|mph|rpm|ft|in|yd|mi|lbs?|oz|hrs?|mins?|secs?|ms"
)
POWER_OF_UNIT = r"(?: ?\^ ?\{?[23]\}?|[\u00b2\u00b3])?"
UNIT = (
    rf"(?: ?(?:\\?%|{SHORT}|{MONEY})| [mgshlLNJWVK]| per cent| (?:square |cubic )?[a-z]{{3,}})"
    rf"{POWER_OF_UNIT}(?:(?: ?/ ?| per )[A-Za-z]+{POWER_OF_UNIT})?(?: old| [CF])?"
)
QUANTITY = re.compile(
    rf"(?:([A-Za-z]\w*) ?= ?)?([+-]?)(?:({MONEY}) ?([+-]?))?({DIGITS})({UNIT})?"
)
PERCENT = re.compile(r"\\?%| ?per ?cent")
TYPESET_UNIT = re.compile(r"(\\(?:text|mathrm|textrm|mbox)\{[^{}]*\}(?:\^\{?[23]\}?)?)\s*$")
UNIT_PARTS = re.compile(r"[A-Za-z]+|[^\sA-Za-z\\^{}]")
SAME_UNIT = {
    alias: unit
    for line in (
        "dollar $ usd", "euro \u20ac eur", "pound \u00a3 gbp", "yen \u00a5", "% percent", "m meter metre",
        "mm millimeter", "cm centimeter centimetre", "km kilometer kilometre", "g gram", "kg kilogram",
        "s sec secs second", "min mins minute", "h hr hrs hour", "l liter litre", "ft foot feet", "in inch inche",
        "lb lbs", "mi mile", "/ per", "2 \u00b2", "3 \u00b3",
    )
    for unit, *aliases in [line.split()]
    for alias in aliases
}  # fmt: skip
NO_UNITS = re.compile(  # words behind a number that make another one of it, or a doubt
    r"\b(?:and|but|not|nor|for|the|than|then|plus|minus|over|into|from|with|more|less|fewer|other|only"
    r"|too|(?:hundred|thousand|million|billion|trillion)(?:th)?|dozen|score|pair|couple|gross|ten|half"
    r"|halve|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|squared|cubed|factorial|binary"
    r"|octal|hex|base|mod|choose|sqrt|sin|cos|tan|log|exp|maybe|perhaps|probably|roughly|about|who|when"
    r"|where|wrong|incorrect|false|true|right|correct|instead|also|doubled|tripled|twice)s?\b"
)

OPTION = re.compile(
    r"(?i:(?:the )?(?:(?:correct|right|best) )?(?:option|choice|answer|letter):? (?:is )?)?"
    r"(?:\(([A-Za-z])\)|([A-Za-z])(?=[.):,]|\s*$|\s-|\sis (?:the )?(?:correct|right|best)\b))"
)
SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
OTHER_OPTION = re.compile(  # behind the first: in brackets, named as one, on a line of its own, ...
    r"(?<!\w)\(([A-Za-z])\)|\b(?i:option|choice) \(?([A-Za-z])\b"
    r"|\n[ \t>-]*([A-Za-z])(?=[.):]|[ \t]*(?:\n|$))"
    # ... or beside it, where "a cat" and "I think" name none
    r"|^[^\w,;/&+|]*+(?:or\b|and\b|[,;/&+|])\W*+([A-HJ-Z]\b(?! [a-z])|[A-Za-z](?=[.):,;]|\W*$))"
)
RETRACTED = re.compile(
    r"\b(?i:wait|actually|no|maybe|perhaps|possibly|sorry|instead|rather|alternatively|correction)\b"
    r"\W{1,9}(?:[\w']{1,20}\W{1,9}){0,3}?(?:([B-HJ-Z])\b|(A)\b(?! (?!is )[a-z]))"
)

FRAME = re.compile(r"\$\$?|\\[()\[\]]")  # around a formula
BETWEEN = re.compile(r"\W*+(?:and\b\W*+)?")  # formulas that are listed


@dataclass(frozen=True, slots=True)
class Quantity:
    r"""A number with what stands beside it, e.g. ``Quantity("80000", Fraction(80000), "dollar", "x")``.

    `digits` are as written, without separators and sign, `unit` is "%" for a percentage.
    """

    digits: str
    value: Fraction
    unit: str
    name: str

    @property
    def is_integer(self) -> bool:
        """Whether it is written as an integer and nothing else."""
        return self.digits.isdecimal() and not self.unit and not self.name

    def agrees(self, other: Quantity) -> bool:
        """Whether neither unit nor name contradicts the other's; one that is missing does not."""
        units, names = {self.unit, other.unit} - {""}, {self.name, other.name} - {""}
        return len(units) < 2 and len(names) < 2


def final_answer(text: str) -> str:
    """Returns the part of a free-form answer that states it, without what it is set in."""
    stated, _ = _statement(text)
    return stated.lstrip(AROUND).rstrip(f"{AROUND}.")


def last_box(text: str) -> str | None:
    r"""Returns what the last ``\boxed{}`` of `text` holds; None without one, or where it does not end."""
    _, box, rest = text.rpartition(r"\boxed{")
    depth = 1
    for at, char in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return rest[:at]
    return None


def _statement(text: str) -> tuple[str, bool]:
    """Returns where `text` states its answer, and whether "answer is" announced it."""
    if (boxed := last_box(text)) is not None:
        return STYLE.sub(r"\1", boxed).strip(), False
    marked = text.rpartition("####")[2].strip()
    *before, stated = LEAD_IN.split(text if "\n" in marked else marked)
    return stated, bool(before)


def plain_number(text: str) -> str:
    """Returns `text` with its numbers as Python reads them, e.g. ``80{,}000`` as 80000 and ``\\frac{3}{4}`` as 3/4."""
    plain = THOUSANDS.sub("", text.translate(FULL_WIDTH))
    plain = SPACING.sub(" ", STYLE.sub(r" \1 ", plain))
    plain = MIXED.sub(" ", DEGREES.sub(" degrees ", plain))
    plain = POWER.sub(r"e\1", FRACTION.sub(r"\1\2/\3\4", plain))
    return SCALE.sub(lambda scale: SCALES[scale[1]], plain)


def read_number(text: str) -> Quantity | None:
    """Returns the number that `text` states as its answer; None where it states none, or more than one."""
    stated, announced = _statement(text)
    plain = plain_number(stated.replace(r"\$", "USD ")).strip()
    if announced:
        stop = STOP.search(plain)
        plain, tail = (plain[: stop.start()], plain[stop.start() :]) if stop else (plain, "")
        if HEDGE.search(tail) or LISTED.match(tail):
            return None
    if plain.count("$") % 2 == 0:  # a formula's, not money
        plain = plain.replace("$", " ")
    plain = " ".join(plain.strip("*` ").rstrip("*` .").split())
    match = QUANTITY.fullmatch(plain)
    return None if match is None else _quantity(*match.groups(default=""))


def _quantity(
    name: str, sign: str, money: str, inner_sign: str, digits: str, unit: str
) -> Quantity | None:
    if NO_UNITS.search(unit):
        return None
    whole, _, part = digits.rpartition(" ")
    numerator, _, denominator = part.partition("/")
    try:
        value = Fraction(whole or 0) + Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or 1/0
        return None
    signed = -value if "-" in (sign, inner_sign) else value
    return Quantity(digits, signed, _unit(money or unit), name.casefold())


def _unit(written: str) -> str:
    """Returns one spelling of a unit, e.g. "cm 2" for ``centimeters^2``."""
    if PERCENT.fullmatch(written):
        return "%"
    parts = []
    for word in UNIT_PARTS.findall(written):
        singular = word[:-1] if len(word) > 3 and word.endswith("s") else word
        parts.append(SAME_UNIT.get(singular.casefold(), singular))
    return " ".join(parts)


def read_letters(text: str) -> set[str]:
    """Returns the letters that `text` names as its answer, in lower case: several where it does not decide."""
    stated, announced = _statement(text)
    plain = SPACING.sub(" ", STYLE.sub(r"\1", stated.translate(FULL_WIDTH)))
    plain = plain.replace("*", "").strip(AROUND)
    stop = STOP.search(plain)
    head = plain[: stop.start()] if stop else plain
    option = OPTION.match(head)
    if option is None:
        return set()
    behind = SENTENCE_END.split(head[option.end() :], 1)[0] if announced else plain[option.end() :]
    others = [*OTHER_OPTION.finditer(behind), *RETRACTED.finditer(plain[len(head) :])]
    return {letter.casefold() for match in (option, *others) for letter in match.groups() if letter}


def read_formula(text: str) -> tuple[str, str]:
    r"""Returns the formula that `text` states as its answer, and its typeset unit, e.g. ``("2\\sqrt{3}", "cm")``.

    An announced answer is its first formula, another text its last. Formulas that are listed, or
    taken back, are returned with all that is said about them: such a text is no formula.
    """
    stated, announced = _statement(text)
    parts = FRAME.split(stated.translate(FULL_WIDTH).strip("*` \n").rstrip("*` \n."))
    if len(parts) < 3 or len(parts) % 2 == 0:
        parts = ["", " ".join(parts), ""]
    at = 1 if announced else len(parts) - 2
    formula, tail = parts[at], " ".join(parts[at + 1 :])
    stop = STOP.search(formula) if announced and len(parts) == 3 else None
    if stop:
        formula, tail = formula[: stop.start()], formula[stop.start() :] + tail
    is_listed = at > 1 and BETWEEN.fullmatch(parts[at - 1])
    if is_listed or HEDGE.search(f"{parts[at - 1]} {tail}") or LISTED.match(tail):
        return " ".join(parts), ""
    unit = TYPESET_UNIT.search(formula)
    if unit is None or not formula[: unit.start()].strip():
        return formula, ""
    return formula[: unit.start()], _unit(STYLE.sub(r"\1", unit[1]))
