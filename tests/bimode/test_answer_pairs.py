"""Verdicts on pairs of an answer and a response: what must be right, and what must be wrong."""

from __future__ import annotations

import json
import time
from itertools import product

import pytest

from bimode.grading import answer_reader
from bimode.grading.verify import code_digest, is_correct
from tests.bimode.answer_pairs import DIRECT, RIGHT, Pair, pairs
from tests.bimode.wrong_answer_pairs import other_pairs
from tests.bimode.wrong_values import OTHER_VALUES


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the child time on a busy machine: an answer that takes too long is judged wrong."""
    monkeypatch.setattr("bimode.grading.math_worker.SECONDS", 20.0)


def test_what_must_be_right_is_right() -> None:
    assert len(set(RIGHT)) == len(RIGHT) >= 150
    refused = [pair for pair in RIGHT if not judged(pair)]
    assert refused == []


def test_what_must_be_wrong_is_wrong() -> None:
    wrong = sorted(set(other_pairs()))
    assert len(wrong) >= 500 and not set(wrong) & set(RIGHT)
    accepted = [pair for pair in wrong if judged(pair)]
    assert accepted == []


@pytest.mark.parametrize(
    "word", ["eleven", "twenty", "zero", "thirteenth", "fortieth", "kilo", "point"]
)
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
        ("2009", "1910", False),
        ("2009", "2010", False),
        ("1999", "2000", False),
        ("2009", "2009", True),
        ("2009", "2009.0", True),
        ("100", "104", True),
        ("100", "106", False),
        ("2009.5", "1910", True),
        ("20090", "19100", True),
        ("0.57", "0.59", True),
        ("50 cm", "52 cm", True),
        ("50 cm", "52 m", False),
        ("-100", "-104", True),
        ("-100", "104", False),
        ("0", "0.01", False),
    ],
)
def test_a_relative_tolerance_is_never_one_of_years(gold: str, stated: str, right: bool) -> None:
    assert is_correct(DIRECT + stated, gold, "number", json.dumps({"rel_tol": 0.05})) is right


def test_a_number_keeps_its_digits_unit_and_name() -> None:
    number = answer_reader.read_number(r"\boxed{x = \$80{,}000}")
    assert (
        number == answer_reader.Quantity("80000", number.value, "dollar", "x") if number else False
    )
    for text in ("5 or 6", "1/0", "9" * 5000 + ".5", "", "five", "1.2.3"):
        assert answer_reader.read_number(text) is None, text[:9]


def test_every_pattern_is_linear_in_the_text() -> None:
    """64 kB of what a pattern could read again and again: 0.3 s at worst, minutes if it did."""
    units = (
        " ",
        "1",
        "1 ",
        "1,",
        "1,000",
        "A\n",
        "(A)",
        "$1$",
        r"\frac",
        r"\frac{1",
        r"\text{",
        r"\text{a}",
        r"\boxed{",
        "answer ",
        "* ",
        "answer is ",
        "\n",
        "x=",
        "- ",
        "wait A",
        "no,",
        "1/",
        "1.",
        "1e5",
        "1 x 10^",
        "\u00b0",
        "cm ",
        "because ",
        ",",
        "option (",
    )
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
    from bimode import modes
    from bimode.grading import math_worker, verifier_args, verify

    read: list[str] = []
    monkeypatch.setattr(verify, "digest_path", lambda path: read.append(str(path)))
    code_digest.__wrapped__()
    judge = (verify, verifier_args, answer_reader, math_worker, modes)
    assert set(read) == {module.__file__ for module in judge}


@pytest.mark.parametrize("piece", ["no'''", "no a''' b'' c'' ", "wait " + "'" * 9 + "x"])
def test_a_second_thought_in_quotes_takes_linear_time(piece: str) -> None:
    """16 kB of ``no'''`` took 3.5 s: a quote counted as part of a word and as what divides two."""
    text = piece * (16_000 // len(piece))
    began = time.perf_counter()
    found = list(answer_reader.SECOND_THOUGHT.finditer(text))
    assert not found and time.perf_counter() - began < 1.0
