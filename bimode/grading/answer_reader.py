r"""Reads what an answer states: gold answers and responses alike.

The statement is the last ``\boxed{}``, else the last line if ``####`` begins it, else what follows
the last "answer is", else the whole text. A number may be written in LaTeX, with separators of
thousands, as money, as ``x = 5``, with one unit behind it. A letter is an option's name.

An announced statement ends at its first full stop or reason ("because ..."). A statement that lists
several numbers or takes its number back has none, and a text that names two letters has named both.
Every pattern is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

LEAD_IN = re.compile(
    r"(?<!wrong )(?<!incorrect )(?<!other )(?:answer|correct (?:option|choice))"
    r"[\s*]*(?:is|:|would be|should be)[\s*]*:?[\s*]*",
    re.IGNORECASE,
)
AROUND = '*$`" \t\n\r'  # what an answer may be set in
REASON = re.compile(
    r",?(?: [-\u2014])?\s\(?(?:because|since|as(?! well)|which (?:is|means|equals))\b|,\sso\b",
    re.IGNORECASE,
)
STOP = re.compile(rf"[.;](?=\s)|\n|{REASON.pattern}", re.IGNORECASE)
HEDGE = re.compile(
    r"\b(?:or|either|maybe|perhaps|possibl[ey]|alternatively|another|others?|also|both|guess|might"
    r"|could|may|wait|actually|but|however|instead|no|not|nor|wrong|incorrect|unsure|second)\b",
    re.IGNORECASE,
)
LISTED = re.compile(r"\W*+(?:[A-Za-z]\s*[=:)]\s*)?[+-]?\d")  # "5\n6" and "x = 5; y = 6" are lists

ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: "-", 0x2013: "-"}
THOUSANDS = re.compile(  # 1,234 but neither 0,125 nor 1234,567 nor 0.5,123
    r"(?<=\d)(?<!\b0)(?<!\d{4})(?<!\.\d)(?<!\.\d\d)(?<!\.\d{3})"
    r"(?:,|\{,\}|,\\!|\\,)(?=\d{3}(?!\d))"
)
STYLE = re.compile(r"\\(?:text|mathrm|textrm|textbf|mathbf|mathit|boldsymbol|mbox)\{([^{}]*)\}")
FRAME = re.compile(r"\$\$?|\\[()\[\]]")  # around a formula
PART = r"(?:\{([+-]?\d+)\}|(\d))"
POWER_OF_TEN = re.compile(
    r"(?<=\d) ?(?:\\times|\\cdot|[*x\u00d7\u00b7]) ?10 ?\^ ?\{?([+-]?\d{1,3})(?!\d)\}?"
)
SPELLINGS = (  # of numbers, and how Python spells them
    (THOUSANDS, ""),
    (STYLE, r" \1 "),
    (re.compile(r"\\(?:[!,;:]|(?:left|right|displaystyle)(?![A-Za-z]))|~|\*\*(?=\s|$)"), " "),
    (re.compile(r"\^\{?\\circ\}?|\u00b0"), " degrees "),
    (re.compile(r"\\%| ?per ?cent\b"), "%"),
    (re.compile(r"(?<=\d)(?=\\[dtc]?frac)"), " "),
    (re.compile(rf"\\[dtc]?frac ?{PART} ?{PART}"), r"\1\2/\3\4"),
    (POWER_OF_TEN, r"e\1"),
    (re.compile(r"(?<=\d) thousand\b"), "e3"),
    (re.compile(r"(?<=\d) million\b"), "e6"),
    (re.compile(r"(?<=\d) billion\b"), "e9"),
)

DIGITS = r"(?:\d+ )?\d+/\d+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
MONEY = r"USD|EUR|GBP|[$\u20ac\u00a3\u00a5]"
SHORT = "mm|cm|km|mg|kg|ml|mL|kW|kWh|Hz|kHz|MHz|GHz|mph|ft|in|yd|mi|lbs?|oz|hrs?|mins?|secs?|ms"
POWER = r"(?: ?\^ ?\{?[23]\}?|[\u00b2\u00b3])?"
UNIT = (
    rf"(?: ?(?:%|{SHORT}|{MONEY})| [mgshlLNJWVK]| (?:square |cubic )?[a-z]{{3,}}){POWER}"
    rf"(?:(?: ?/ ?| per )[A-Za-z]+{POWER})?(?: [CF])?"
)
QUANTITY = re.compile(
    rf"(?:([A-Za-z]\w*) ?= ?)?([+-]?)(?:({MONEY}) ?)?({DIGITS})({UNIT})?"
    r"(?: old| left| each| in total| altogether)?"
)
NO_UNITS = re.compile(  # words behind a number that make another one of it, or a doubt
    r"\b(?:and|but|not|nor|for|the|than|then|plus|minus|over|into|from|with|more|less|fewer|other"
    r"|only|too|(?:hundred|thousand|million|billion|trillion)(?:th)?|dozen|score|pair|couple|gross"
    r"|lakh|crore|mil|grand|below|above|under|negative|ten|half|halve|third|quarter|fourth|fifth"
    r"|sixth|seventh|eighth|ninth|tenth|squared|cubed|factorial|binary|octal|hex|base|mod|choose"
    r"|sqrt|sin|cos|tan|log|exp|maybe|perhaps|probably|roughly|about|who|when|where|wrong|incorrect"
    r"|false|true|right|correct|instead|also|doubled|tripled|twice|zero|one|two|three|four|five|six"
    r"|seven|eight|nine|eleven|eleventh|twelve|twelfth|[a-z]{3,5}teen(?:th)?|myriad|zillion|kilo"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)(?:ty|tieth)|mega|giga|nano|root|prime|point"
    r"|remainder|modulo|approximately|unknown)s?\b"
)
TYPESET_UNIT = re.compile(
    r"\\(?:text|mathrm|textrm|mbox)\{[ ~]?((?:square |cubic )?[A-Za-z]+(?:/[A-Za-z]+)?) ?\}"
    r"(\^\{?[23]\}?)?\s*$"
)
UNIT_PARTS = re.compile(r"[a-z]+|[^\sa-z\\^{}]")
SAME_UNIT = dict(
    re.findall(
        r"(\S+)=(\S+)",
        "$=dollar usd=dollar \u20ac=euro eur=euro \u00a3=pound gbp=pound \u00a5=yen meter=m gram=g "
        "kilometer=km centimeter=cm millimeter=mm kilogram=kg hour=h hr=h hrs=h minute=min mile=mi "
        "second=s sec=s foot=ft feet=ft inche=in inch=in lbs=lb per=/ \u00b2=2 \u00b3=3",
    )
)

OPTION = re.compile(
    r"(?i:(?:the )?(?:(?:correct|right|best) )?(?:option|choice|answer|letter):? (?:is )?)?"
    r"(?:[(\[{]([A-Za-z])[)\]}](?! is (?:wrong|incorrect|not|false)\b)"
    r"|([A-Za-z])(?=[.):,]|\s*$|\s-|\sis (?:the )?(?:correct|right|best)\b))"
)
SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
OTHER_OPTION = re.compile(  # behind a letter: in brackets, named as one, at the head of a line,
    r"(?<!\w)\(([A-Za-z])\)|\b(?i:option|choice) \(?([A-Za-z])\b|\n[ \t>-]*([A-Za-z])(?=[.):])"
    # or beside it, where "a cat" and "I think" name none
    r"|^[^\w,;/&+|]*+(?:or\b|and\b|[,;/&+|])\W*+([A-HJ-Z]\b(?! [a-z])|[A-Za-z](?=[.):,;]|\W*$))"
)
SECOND_THOUGHT = re.compile(  # anywhere behind a letter: another one by itself, or after "wait"
    r"(?:^|[.;!?\n])[ >-]*+(?i:(?:or |and )?(?:option |choice )?)\(?([A-Za-z])\b\)?"
    r"(?=\s*(?:[.;\n]|$)|\sis (?:the )?(?:correct|right|best)\b)"
    r"|\b(?i:wait|actually|no|maybe|perhaps|possibly|sorry|alternatively|could|might|also)\b"
    r"\W{1,9}(?:\w[\w']{0,19}+\W{1,9}){0,3}?(?:([B-HJ-Z])\b|(A)\b(?! (?!is )[a-z]))"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    r"""A number with what stands beside it: ``Quantity("80000", Fraction(80000), "dollar", "x")``.

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
        return len({self.unit, other.unit, ""}) < 3 and len({self.name, other.name, ""}) < 3


def final_answer(text: str) -> str:
    """Returns the part of a free-form answer that states it, without what it is set in."""
    stated, _ = _statement(text)
    return STYLE.sub(r"\1", stated).strip(AROUND).rstrip(f"{AROUND}.")


def last_box(text: str) -> str | None:
    r"""Returns what the last ``\boxed{}`` of `text` holds; None without one that ends."""
    _, box, rest = text.rpartition(r"\boxed{")
    depth = 1
    for at, char in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return rest[:at]
    return None


def _statement(text: str) -> tuple[str, bool]:
    """Returns where `text` states its answer, and whether "answer is" announced it."""
    plain = text.translate(ASCII)
    if (boxed := last_box(plain)) is not None:
        return boxed.strip(), False
    last_line = plain.strip().rpartition("\n")[2]
    marked = last_line.startswith("#### ")  # as GSM8K marks it; "####" may be part of a puzzle
    *before, stated = LEAD_IN.split(last_line[5:] if marked else plain)
    return stated, bool(before)


def _decided(stated: str, announced: bool) -> str:
    """Returns an announced statement up to its first stop or reason, any other one whole.

    Returns "" where the rest of it lists more answers or doubts the first.
    """
    plain = stated.strip()
    stop = STOP.search(plain) if announced else None
    if stop:
        tail = plain[stop.start() :]
        plain = plain[: stop.start()]
        if HEDGE.search(tail) or LISTED.match(tail):
            return ""
    return plain.strip("*` \n").removesuffix(".").rstrip("*` \n")


def plain_number(text: str) -> str:
    r"""Returns `text` with its numbers as Python spells them, e.g. ``\frac{3}{4}`` as 3/4."""
    plain = text.translate(ASCII)
    for pattern, spelling in SPELLINGS:
        plain = pattern.sub(spelling, plain)
    return plain


@lru_cache(maxsize=1024)  # a gold answer is read once for all responses of its group
def read_number(text: str) -> Quantity | None:
    """Returns the number that `text` states as its answer; None for none, and for several."""
    stated, announced = _statement(text)
    plain = plain_number(stated.replace(r"\$", "USD "))
    if "\\" in plain or plain.count("$") % 2 == 0:  # a formula's, not money
        plain = FRAME.sub(" ", plain)
    match = QUANTITY.fullmatch(" ".join(_decided(plain, announced).split()))
    if match is None:
        return None
    name, sign, money, digits, unit = match.groups(default="")
    whole, _, part = digits.rpartition(" ")
    try:
        value = Fraction(part) + int(whole or 0)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or 1/0
        return None
    if NO_UNITS.search(unit):
        return None
    if money:
        digits = digits.removesuffix(".00")
    return Quantity(digits, -value if sign == "-" else value, _unit(money or unit), name.casefold())


def _unit(written: str) -> str:
    """Returns one spelling of a unit, e.g. "cm 2" for ``centimeters^2``."""
    parts = []
    for word in UNIT_PARTS.findall(written.casefold()):
        singular = word[:-1] if len(word) > 3 and word.endswith("s") else word
        parts.append(SAME_UNIT.get(singular, singular))
    return " ".join(parts)


def read_letters(text: str) -> set[str]:
    """Returns the letters that `text` names as its answer, in lower case; one if it decides."""
    stated, announced = _statement(text)
    plain = FRAME.sub("", STYLE.sub(r"\1", stated)).replace("*", "").replace('"', "").strip(AROUND)
    stop = STOP.search(plain)
    head = plain[: stop.start()] if stop else plain
    announced |= plain[len(head) :].startswith("\n\n")  # a letter, and then an explanation
    option = OPTION.match(head)
    if option is None:
        return set()
    behind = plain[option.end() :]
    sentence = SENTENCE_END.split(head[option.end() :], 1)[0]
    others = OTHER_OPTION.finditer(sentence if announced else behind)
    named = [option, *others, *SECOND_THOUGHT.finditer(behind)]
    return {letter.casefold() for match in named for letter in match.groups() if letter}


def read_formula(text: str) -> tuple[str, str]:
    r"""Returns the formula that `text` states as its answer, and its unit: ``("2\sqrt{3}", "cm")``.

    A text that announces no answer states the only formula in it, as in ``so it is $x$``.
    """
    stated, announced = _statement(text)
    parts = FRAME.split(THOUSANDS.sub("", stated))
    if len(parts) == 3 and not announced:
        around = parts[0] + parts[2]
        formula = "" if HEDGE.search(around) or re.search(r"\d", around) else parts[1].strip()
    else:
        formula = _decided(" ".join(parts), announced)
    unit = TYPESET_UNIT.search(formula)
    if unit is None or not formula[: unit.start()].strip():
        return formula, ""
    return formula[: unit.start()].rstrip("\\ ,;~"), _unit("".join(unit.groups(default="")))
