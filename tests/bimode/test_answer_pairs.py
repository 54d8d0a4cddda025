r"""Answers that must be right and answers that must be wrong: what models write, and its neighbors.

A false positive rewards what is wrong in every step of a run,
so the wrong pairs are many: seeds written by hand, each with every way of listing, doubting,
scaling or extending an answer. The tables are fixed, and no pair is in them twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pytest

from bimode import answer_reader
from bimode.verify import code_digest, is_correct

DIRECT = "\n\n</think>\n\n"
Pair = tuple[str, str, str]  # verifier, gold answer, response

INTEGERS = {
    "5": [
        r"\(5\)", r"\[5\]", r"\boxed{x=5}", r"\boxed{\mathbf{5}}", r"\boxed{\text{5}}", "#### 5",
        "We add.\n#### 5", "x = 5", "`5`",
        "The answer is 5 because 2+3=5.", "The answer is 5, since 2 + 3 = 5.",
        "The answer is 5 (because 2 + 3 is 5).", "\uff15",
        "The answer is **5**, because it is.", "The answer is **5** apples.",
        "The answer is $5$ because $2+3=5$.", r"$x=5$",
        "The answer is:\n\n\\[\nx = 5\n\\]", "The answer is:\n$$\nx = 5\n$$\nIt is odd.",
        "Answer: 5\n\n**Why:** 2 + 3 = 5.",
        "The answer is 5, which is 2 + 3.", "The answer is 5. Five of them are left.",
        "The answer is 5 apples in total.",
        "The final answer is $\\boxed{5}$.", "**Answer: 5**", "Answer\uff1a5",
        "The answer should be 5.", "The answer is 5 \u2014 as 2 + 3 = 5",
        "It is not 6. The answer is 5.", r"\boxed{5.}", "+5", "005",
    ],
    "-5": ["\u22125", "\u20135", r"\boxed{-5}", "x = -5",
    "The answer is \u22125 because 2 \u2212 7 = \u22125."],
    "18": [
        "18 dollars", r"\boxed{18\text{ dollars}}", "$18", r"\boxed{\$18}", "$18.00", "18 eggs",
        "18 dollars per day", "18 months",
        "18 years old", r"18\text{ cm}^2", "18 cm\u00b2", "18cm", "18 m", "18 km/h",
        "18 miles per hour", "18 square feet", "\u20ac18",
        "18 \u20ac", "#### 18 dollars", "The answer is $18 because 9*$2=$18.",
        "The answer is 18 dollars, since 9 * 2 = 18.", "18%",
        r"\boxed{18\,\mathrm{kg}}", "18 apples left",
    ],
    "90": [r"\boxed{90^\circ}", r"90^{\circ}", "90\u00b0", "90 degrees", r"\boxed{x = 90^\circ}",
    "The answer is 90\u00b0 because it is."],
    "80000": [
        r"\boxed{80{,}000}", r"\boxed{\$80,000}", "$80,000", r"80,\!000", r"80\,000", "80 thousand",
        "80,000 dollars", "USD 80,000",
        r"8 \times 10^4", r"$8\cdot 10^{4}$", "8e4", "The answer is $80,000.",
        "\uff18\uff10\uff0c\uff10\uff10\uff10",
    ],
    "$5$": ["5", r"\boxed{5}"], r"\boxed{5}": ["5", "$5$"], "1,234": ["1234", "1,234"],
    "\u22125": ["-5"],
}  # fmt: skip
NUMBERS = {
    "3/4": [
        r"\boxed{\frac{3}{4}}", r"\boxed{\dfrac{3}{4}}", r"\tfrac{3}{4}", r"\frac34", r"\frac 3 4",
        "0.75", "75%", r"\frac{6}{8}",
        r"The answer is \(\frac{3}{4}\).", r"The answer is $\frac{3}{4}$ because it is.",
        r"\boxed{x=\frac{3}{4}}", "$3/4$",
        r"\boxed{\frac{3}{4}\text{ cup}}",
    ],
    "0.75": [r"\boxed{\frac{3}{4}}", r"\boxed{\dfrac{3}{4}}", ".75", r"75\%", r"\frac{15}{20}"],
    "-3/4": [r"-\frac{3}{4}", r"\frac{-3}{4}", "\u22120.75"],
    r"\frac{3}{4}": ["3/4", "0.75", r"\frac{6}{8}"],
    "2.5": [r"2\frac{1}{2}", "2 1/2", r"\boxed{2\tfrac12}", "5/2"],
    "0.30000000000000004": ["0.3", "0.30000000000000004", "3/10"],
    "0.3": ["0.30000000000000004", "0.299999999999999988898"],
    "3.141592653589793": ["3.14159265358979", "3.1415926535897932"],
    "6.63e-34": ["6.63e-34", r"6.63 \times 10^{-34}", "6.63 x 10^-34", "6.63\u00b710^{-34}",
    "0.663E-33"],
    "1.5 million": ["1,500,000", "1.5 million", r"1.5 \times 10^6", "1.5e6", "1.5 million people"],
    "5 cm": [
        "5", "5 cm", "5cm", r"5\text{ cm}", r"\boxed{5 \mathrm{~cm}}", "5.0 centimeters",
        "The answer is 5 cm because it is.",
        r"\boxed{x = 5\text{ cm}}",
    ],
    "$18": ["18 dollars", "18", r"\$18", "18.00", "18 USD"],
    "25 m^2": ["25 m\u00b2", r"25\text{ m}^2", "25"],
    "12%": ["12", "0.12", "12 per cent", r"\boxed{12\%}"], "x = 7": ["7", "x=7", r"$x = 7.0$"],
}  # fmt: skip
FORMULAS = {
    "5!": ["120", "5!", "$5!$", r"\boxed{120}"],
    "120": ["5!", r"\boxed{5!}", r"$2 \cdot 60$"],
    r"2\sqrt{3}": [
        r"2\sqrt{3}", r"\boxed{2\sqrt{3}}", r"\sqrt{12}", r"$\sqrt{12}$", r"2 \sqrt 3", "2*sqrt(3)",
        "3.4641016", r"\frac{6}{\sqrt{3}}",
        r"The answer is $2\sqrt{3}$.", r"so it is $2\sqrt{3}$", r"\boxed{x = 2\sqrt{3}}",
        r"\boxed{2\sqrt{3}\text{ cm}}",
        r"The answer is \(2\sqrt{3}\) because \(12 = 4 \cdot 3\).", r"#### $2\sqrt{3}$",
    ],
    r"5\sqrt{2}\text{ cm}": [r"5\sqrt{2}", r"5\sqrt{2}\text{ cm}", r"\boxed{\sqrt{50}\ \text{cm}}",
    "7.0710678"],
    "x^2+1": ["1+x^2", "$x^2 + 1$", r"\boxed{x^2+1}", "x**2+1",
    "The answer is $x^2+1$ because it is."],
    "5,6": ["5, 6", r"\boxed{6, 5}", "5 and 6", "$5$ and $6$", "The answer is $5$ and $6$."],
    r"\pi": [r"\pi", "3.14159265", "3.1415927"],
    r"\frac{1}{2}\pi": [r"\frac{\pi}{2}", r"\pi/2", "1.5707963"],
    r"\sqrt{2}": ["1.41421356", "1.4142136", "1.4142135623730951", r"2^{\frac{1}{2}}"],
    "e^{-20}": ["2.0611536e-9", r"\frac{1}{e^{20}}"],
    r"\pm 5": [r"\pm 5", "5, -5", "-5 and 5"], r"\{1,2\}": [r"\{2,1\}", r"$\{1, 2\}$"],
    r"x=5 \text{ or } x=6": ["x=5 or x=6", r"x=6 \text{ or } x=5"],
    "y=2x+1": ["y = 1 + 2x", "2x+1", "$y=2x+1$"], "x > 5": ["x>5", "5<x", r"$x \gt 5$"],
    "x^2-1": ["(x-1)(x+1)", "y = x^2-1", "f(x)=x^2-1"],
    r"(-\infty, 2]": [r"$(-\infty,2]$", r"x \in (-\infty, 2]"],
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"],
    "0.5": [r"so it is $\frac{1}{2}$", r"\boxed{2^{-1}}", r"\frac{1.5}{3}"],
    r"10^{-34}": [r"\frac{1}{10^{34}}", "1e-34"],
    "1.2.3": ["1.2.3", "$1.2.3$"],
}  # fmt: skip
CHOICES = {
    "C": [
        "The answer is C because it is cold.", "The correct option is C.",
        "C\n\nThe cell wall is thick.", "**Option (C)**", "Option C",
        "C\nIt is cold.", "**C**\n\nBecause the cell is big.", r"\boxed{C}", r"\boxed{\text{(C)}}",
        "$C$", "c", "C. the cat", "C) it",
        "The correct answer is option C.", "The correct answer is (C), since (A) is wrong.",
        "The answer is C: the cat", "#### C",
        "The answer is **C**.\n\n(A) is too small.", "\uff08\uff23\uff09", "Option C is correct.",
        "The answer is C \u2013 the cat",
        "Answer: **C. the cat**", "The answer is C as the cell is big.",
        "The answer is $C$ because it is.", "C because it is cold",
        "The correct choice is C, which is the cat.", 'The answer is "C".', "The answer is [C].",
        "The cells come first. Therefore, the correct answer is (C).", "Choice C", "Option C: it",
        "**Answer:** (C) It\n\n**Why:** Option A is small, option B is large.",
        "C\n\nOption A is too small, and (B) is wrong.", "**C**\n\nA: too small.\nB: too large.",
    ],
    "A": ["The answer is A because it is.", "Option A.", "A\n\nThe first one.",
    "The answer is A, as shown.", "The answer is (A)."],
    "$C$": ["C"], r"\boxed{C}": ["(c)", "The answer is C because it is."], "(B)": ["B", "b."],
    "yes": ["Yes", "**yes**", "The answer is yes.", "The answer is yes because it is."],
    "Stop!": ["stop", "Stop!"],
}  # fmt: skip


def pairs(verifiers: str, table: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    for verifier, (gold, responses) in product(verifiers.split(), table.items()):
        yield from ((verifier, gold, response) for response in responses)


RIGHT = [
    *pairs("int number math", INTEGERS), *pairs("number math", NUMBERS), *pairs("math", FORMULAS),
    *pairs("choice", CHOICES),
]  # fmt: skip

# What makes a wrong answer of a right one: {0} is right, {1} is another.
LISTS = (
    "{0} or {1}", "{1} or {0}", "{0}, {1}", "{1}, {0}", "{0} and {1}", "{1} and {0}", "{0} {1}",
    "{0}; {1}", "{0}\n{1}", "{0}\n\n{1}",
    r"\boxed{{{0}, {1}}}", r"\boxed{{{0} \text{{ or }} {1}}}", "The answer is {0} or {1}.",
    "The answer is {0}, {1}.", "{0} ({1})",
    "The answer is {0} and {1}.", "Answer: {0}\n{1}", "Answer: {0}\n\n{1}",
    "The answer is {0}. Or {1}.", "The answer is {0}; {1}",
    "The answer is {0}. Wait, actually {1}.", "The answer is {0}, or maybe {1}.",
    "The answer is {0}. It could also be {1}.",
    "The answer is not {0}.", "The wrong answer is {0}.",
    "The answer is {0}. No, the answer is {1}.", "not {0}", "{1}", "({1})",
    "${0}$ or ${1}$", "${0}$, ${1}$", r"\({0}\) \({1}\)", "**{0}** or **{1}**", "**{0}**, **{1}**",
    "- {0}\n- {1}", "{0} #### {1}",
    r"\boxed{{{0}}}, no: \boxed{{{1}}}", "The answer is ${0}$ or ${1}$.",
    "The answer is ${0}$ and ${1}$.", "#### {0}\n#### {1}",
    "The answer is either {0} or {1}", "It is {0}. The answer is {1}.",
    "The answer is {0} as well as {1}.", "{0}/{1}", "{0}-{1}",
)  # fmt: skip
OTHER_NUMBERS = (  # of 5
    "5!", "The answer is 5!", "5^2", "5\u00b2", "5x", "5 x", "5i", "5 pi", r"5\pi", r"\sqrt{5}",
    r"5\sqrt{2}", "5 million", "5 thousand",
    "5 hundred", "5 dozen", "5 pairs", "5 tenths", "5 halves", "5 thirds", "5 squared",
    "5 factorial", "5 minus 2", "5 plus 3", "5 + 3",
    "5 times 3", "5 more than 3", "5\u20136", "5 to 6", "5~6", "5\u00b16", r"\pm 5", "5.5", "0.5",
    ".5", "05,5", "5,5", "5,000", "50",
    "500", "15", "55", "-5", "\u22125", "5e2", "5e-1", "5*10^2", r"5 \times 10^2", "5/2", "1/5",
    r"\frac{5}{6}", r"6\frac{5}{1}",
    "5:30", "1.2.5", "5.6.7", "5...", "x=5 or x=6", "x=5, x=6", "x>5", "x<5", "x != 5", r"x \ne 5",
    r"\geq 5", "2x=5", "x^2=5", "5=6",
    "5 feet 6 inches", "5 hours and 30 minutes", "5 dollars and 50 cents", "about 5",
    "approximately 5", "at least 5", "more than 5",
    "between 5 and 6", "5 wrong", "5 perhaps", "5?", "5-", "#5", "No. 5", "5 mod 7", "5 (mod 7)",
    "5_2", "5 in base 7", "5 binary",
    "5 remainder 1", "5 R 1", "0x5", "10^5", r"5^\circ 30'", "five or six",
    "#### 5. First step\nWe add", "Answer: x = 5\nx = 6",
    "Answer: 5. 6. 7.", "5. We add.\n6. We subtract.", "The answer is 5 million because it is.",
    "The answer is 5 more than 2.",
    "The answer is 5 times 3 because it is.", "5 %%", "5 and a half", "5 or so", "1 #### 5 6",
    r"\boxed{5", r"\boxed{}5", "",
)  # fmt: skip
OTHER_VALUES: dict[str, tuple[str, ...]] = {
    "5 cm": ("5 m", "5 mm", "5 km", "5 kg", r"5\text{ m}", "5 cm^2", "5 cm/s", "50 mm", "6 cm",
    "5 inches", "5%", "5 dollars", "$5"),
    "$5": ("5 euros", "\u20ac5", "\u00a35", "5 cents", "5%", "6 dollars", "5 cm",
    "5 dollars per day", "$5,000"),
    "25\u00b0C": ("25\u00b0F", "26\u00b0C", "77", "25%"),
    "5 million": ("5", "5 thousand", "5 billion", "5000", "5,000,001", "5 dollars"),
    "12%": ("1200%", "0.12%", "12 cm", "1.2", "13%", "112%"),
    "3/4": (
        "4/3", "3", "4", "34", "3.4", "0.34", r"\frac{4}{3}", r"3\frac{1}{4}", "3 4", "3-4",
        r"\frac{3}{4}x", "0.7", "0.8",
        "3/4/2", r"\frac{3}{4} \text{ or } 1",
    ),
    "1/3": ("0.333333", "0.33", "3", "1/4", "33%", "-1/3"),
    "0.125": ("0,125", "125", "1/9", ".12", "1.25", "12.5"),
    "125": ("0,125", "0.125", "1,25", "1,2,5"),
    "1234567": ("1234,567", "1,234.567", "1.234.567", "1,234,568", "1,234", "12,34,567"),
    "6.63e-34": ("1.6e-19", "0", "6.63e-35", "6.6e-34", "1e-34", r"1.6 \times 10^{-19}", "6.63",
    "-6.63e-34", r"10^{-34}"),
    "3.14159265": ("3.14159299", "3.14", "22/7", "3.1415926", "3.14159266"),
    "12345678901234567": ("12345678901234568", "12345678901234566"),
    "0.30000000000000004": ("0.31", "0.3001", "0.30000000001", "3", "-0.3"),
    "x=5": ("y=5", "x=6", "x=-5", "6", "x>5", "5 or 6"),
    "72": (
        "The answer is 72 and 24.", "The answer is 72/24", "The answer is 7 2", "The answer is 72k",
        "Answer: 72%5", "The answer is 72 clips in April and 24 in May.", "The answer is over 72",
        "Answer: 48 + 24 = 73", "The answer is 72 hundred", "The answer is approximately 72",
        "The answer is 72 to 73", "The answer is 72 minus 1", "#### 72 or 73",
    ),
    "120": ("5", "5!!", "6!", "-120", "12", "120!"),
}  # fmt: skip
OTHER_FORMULAS: dict[str, tuple[str, ...]] = {
    "5!": ("5", "5.", "25", "24", "119", "5!!", "6!", "!5", "5! + 1", "x=5",
    "The answer is 5 because 5! is 5!"),
    r"2\sqrt{3}": (
        r"2\sqrt{2}", r"\sqrt{3}", "2", "3", r"3\sqrt{2}", r"-2\sqrt{3}", "3.46", "3.4641",
        "3.4641026", "3.4642", r"2\sqrt{3}+1",
        r"2\sqrt{3}x", r"\pm 2\sqrt{3}", r"not $2\sqrt{3}$", r"2\sqrt{3}i", r"x^2=2\sqrt{3}",
        r"x>2\sqrt{3}", r"\frac{2}{\sqrt 3}",
        r"2\sqrt{3},2\sqrt{3}", r"between $2$ and $2\sqrt{3}$", r"$2\sqrt{3}$, I guess, or more",
        "23", r"2^{\sqrt{3}}",
    ),
    r"5\sqrt{2}": (
        r"5\sqrt{2}\text{ is wrong}", r"5\sqrt{2}\text{ or } 6", r"5\sqrt{2} \text{ or so}",
        r"\text{not } 5\sqrt{2}", r"5\sqrt{2}...", r"5\sqrt{2}\%", r"500\sqrt{2}", r"5\sqrt{2}=7",
        r"7=5\sqrt{2}", r"x+1=5\sqrt{2}", r"5\sqrt{2}!", "7.07", "7.0711", r"\approx 7.071068",
    ),
    r"x=5 \text{ or } x=6": ("5", "x=5", "6", "x=6", "5,7"), r"\pm 5": ("5", "-5", "x=5"),
    r"\{1,2\}": ("1", "2", "12", "1.2", r"\{1\}", r"\{1,3\}"), "x > 5": ("x<5", "x>=5", "5", "x>6"),
    "x^2-1": ("(x-1)^2", "x^2+1", "1-x^2", "x^2-1=0", "x^2-1 or 0", "x-1"),
    "y=2x+1": ("y=2x", "x=2y+1", "2x", "y=2x-1", "1"), r"(-\infty, 2]": (r"(-\infty,2)", "2"),
    r"\sqrt{2}": ("1.414", "1.41421357", "1.41", "2"), "e^{-20}": ("2.06e-9", "3e-9", "e^{-21}"),
    "2^{-100}": ("3^{-70}", "0", "2^{100}"), r"\frac{2}{3}\pi": ("2.0943952", "2.09"),
    r"\begin{pmatrix}10^{-8}&2\end{pmatrix}": (r"\begin{pmatrix}10^{-9}&2\end{pmatrix}",),
    "(10^{-8},2)": ("(10^{-9},2)",), "(1e-8,2)": ("(1e-9,2)", "(-8,2)"),
    r"5\sqrt{2}\text{ cm}": (r"5\sqrt{2}\text{ m}", r"5\sqrt{2}\text{ cm}^2", "5",
    r"5\sqrt{3}\text{ cm}"),
    r"10^{-19}": (r"10^{-34}", "0", "1e-20", r"2\cdot10^{-19}", "10^{19}", "1.6e-19"),
    r"\frac{\sqrt{2}}{10^{10}}": (r"\frac{\sqrt{3}}{10^{10}}", "0", "1.5e-10",
    r"\frac{\sqrt{2}}{10^{11}}"),
    r"\pi": ("3.14159299", "3.14", "22/7", "3.1416", "3", r"2\pi", "3.14159266"),
    "5,6": ("5", "6", "5,7", "6,5,7", "5.6", "56", r"\boxed{5}", "5 or", "(5)", "x=5",
    "The answer is 5.", "5, 6, 7"),
    "1.2.3": ("1.2", "3", "1.23", "0.36", "2.3", "1.2.4", "3.2.1"),
    "x+1": ("x-1", "x", "1", "x+2", "y+1", "2x+1", "x+1=0", "$x+1$ or $x-1$", "(x+1)^2"),
    "(1,2)": ("(2,1)", "[1,2]", "(1,3)", "1", "2", "12", "1.2", "(1,2]"),
    r"\frac{1}{2}+x": (r"\frac{1}{2+x}", r"\frac{1+x}{2}"), "5x": ("5", "x5+1"), "5m": ("5",),
    "10:30": ("10",), "10": ("10:30",),
    "11": ("5 6",), "101_2": ("101", "5"), "101": ("101_2",), "2^{10}": ("1023", "210", "20"),
    r"\frac{x}{2}": ("x", "2", "x/3"),
}  # fmt: skip
OTHER_LETTERS: dict[str, tuple[str, ...]] = {
    "A": (
        "A cat", "The answer is a cat.", "a cat", "The answer is A cat", "An apple",
        "The answer is apples", "Answer: a bird", "A-C",
        "A to C", "A+C", "A & C", "AC", "(A)(C)", "A)\nC)", "A. C.", "Option A or option C",
        "Option A\n\nOption C", "Not A but C",
        "Option A. Actually, option C.", "A\n\nWait, it is C.", "A. Actually, C is right.",
        "A (or C)", "A, possibly C", "neither",
        "The answer is A. Wait, C.", "The answer is A. Actually it might be C.", "all of them",
        "A\nB\nC\nD", "The answer isn't A.",
    ),
    "C": (
        "Cat", "The answer is Cat", "C++", "C#", "C'", "Carbon", "The answer is C-section",
        "The answer is carbon because", "C and A",
        "C\n\nWait, it is A.", "C. No, A.", "The answer is C. Hmm, no, it is A.", "C, possibly A",
        "c or a", "It is not C.", "3",
        "C\n\nOption A is right.", "C\n\n(A) is the correct one.", "C\n\nOption A", "C\n\n(A)",
        "The answer is C. Option A is correct.",
    ),
    "B": (
        "The answer is between A and B", "B or not B", "The answer is A (not B)", "B is wrong.",
        "The answer is not B but A", "I would rule out B. The answer is A.", "(B) is wrong", "B+",
        "Everything but B", "The answer is either B or C", "A, then B", "B > A", "B2", "A) B",
        "The answer is B? No, A.", "B is incorrect because it is.", "Not (B)", "Option AB",
    ),
    "I": ("I think B", "I am not sure", "The answer is I think B"), "5!": ("5", "5.", "(5)", "120"),
    "1.2.3": ("1.2", "1.23", "2.3"),
    "yes": ("no", "yes or no", "yes and no", "not yes", "The answer is no.",
    "The answer is no because yes is wrong.", "yes so no", "yes as well as no"), "A, C": ("A", "C",
    "(A)", "A, B"), "5 m": ("5", "m"),
    "x^2": ("x", "x2", "2"),
}  # fmt: skip


def other_pairs() -> Iterator[Pair]:
    seeds = (("5", "6", "int number math"), ("-12", "12", "int"), ("1200", "1201", "number"))
    for gold, other, verifiers in seeds:
        yield from pairs(verifiers, {gold: [form.format(gold, other) for form in LISTS]})
    for gold, other in ("AC", "CA", "DB"):
        yield from pairs("choice", {gold: [form.format(gold, other) for form in LISTS]})
    for verifier in ("int", "number", "math"):
        yield from ((verifier, "5", response) for response in OTHER_NUMBERS)
    yield from pairs("number math", OTHER_VALUES)
    yield from pairs("math", OTHER_FORMULAS)
    yield from pairs("choice", OTHER_LETTERS)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the child time on a busy machine: an answer that takes too long is judged wrong."""
    monkeypatch.setattr("bimode.math_judge.SECONDS", 20.0)


def test_what_must_be_right_is_right() -> None:
    assert len(set(RIGHT)) == len(RIGHT) >= 150
    refused = [pair for pair in RIGHT if not judged(pair)]
    assert refused == []


def test_what_must_be_wrong_is_wrong() -> None:
    wrong = sorted(set(other_pairs()))
    assert len(wrong) >= 500 and not set(wrong) & set(RIGHT)
    accepted = [pair for pair in wrong if judged(pair)]
    assert accepted == []


@pytest.mark.parametrize("word", ["eleven", "twenty", "zero", "thirteenth", "fortieth", "kilo", "point"])
def test_a_word_of_number_behind_a_number_is_no_unit(word: str) -> None:
    assert not any(judged((verifier, "5", f"5 {word}")) for verifier in ("int", "number", "math"))


def test_a_gold_answer_is_right_for_itself() -> None:
    others = pairs("number math", {gold: [""] for gold in OTHER_VALUES})
    golds = {(verifier, gold, gold) for verifier, gold, _ in (*RIGHT, *others)}
    assert [pair for pair in sorted(golds) if not judged(pair)] == []


def judged(pair: Pair) -> bool:
    verifier, gold, response = pair
    return is_correct(DIRECT + response, gold, verifier, "{}")


@pytest.mark.parametrize(
    ("gold", "stated", "right"),
    [
        ("2009", "1910", False), ("2009", "2010", False), ("1999", "2000", False),
        ("2009", "2009", True), ("2009", "2009.0", True),
        ("100", "104", True), ("100", "106", False), ("2009.5", "1910", True),
        ("20090", "19100", True), ("0.57", "0.59", True),
        ("50 cm", "52 cm", True), ("50 cm", "52 m", False), ("-100", "-104", True),
        ("-100", "104", False), ("0", "0.01", False),
    ],
)  # fmt: skip
def test_a_relative_tolerance_is_never_one_of_years(gold: str, stated: str, right: bool) -> None:
    assert is_correct(DIRECT + stated, gold, "number", json.dumps({"rel_tol": 0.05})) is right


def test_a_number_keeps_its_digits_unit_and_name() -> None:
    number = answer_reader.read_number(r"\boxed{x = \$80{,}000}")
    assert number == answer_reader.Quantity("80000", number.value, "dollar",
    "x") if number else False
    for text in ("5 or 6", "1/0", "9" * 5000 + ".5", "", "five", "1.2.3"):
        assert answer_reader.read_number(text) is None, text[:9]


def test_every_pattern_is_linear_in_the_text() -> None:
    """64 kB of what a pattern could read again and again: 0.3 s at worst, minutes if it did."""
    units = (
        " ", "1", "1 ", "1,", "1,000", "A\n", "(A)", "$1$", r"\frac", r"\frac{1", r"\text{",
        r"\text{a}", r"\boxed{", "answer ", "* ",
        "answer is ", "\n", "x=", "- ", "wait A", "no,", "1/", "1.", "1e5", "1 x 10^", "\u00b0",
        "cm ", "because ", ",", "option (",
    )  # fmt: skip
    announced, letter = "The answer is 5. ", "Answer: C. "
    starts = {
        answer_reader.read_number: ("", announced),
        answer_reader.read_letters: ("C\n", letter),
        answer_reader.read_formula: ("", announced),
    }
    for reader, unit in product(starts, units):
        first, second = ((start + unit * 65536)[:65536] for start in starts[reader])
        begun = time.process_time()
        reader(first)
        reader(second)
        assert time.process_time() - begun < 5, (reader.__name__, unit)


def test_the_digest_of_kept_verdicts_covers_all_code_that_judges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bimode import math_judge, modes, verifier_args, verify

    read: list[str] = []
    monkeypatch.setattr(verify, "digest_path", lambda path: read.append(str(path)))
    code_digest.__wrapped__()
    judge = (verify, verifier_args, answer_reader, math_judge, modes)
    assert set(read) == {module.__file__ for module in judge}
