"""Checks of a trace: each reason on a case that has it and beside one that only looks like it."""

from __future__ import annotations

import time

import pytest

from bimode.config.curate import SourceConfig
from bimode.config.traces import TraceConfig
from bimode.storage.dataset import Row
from data_curation.demo import family_of
from data_curation.traces.checks import (
    TRACE_REASONS,
    check_trace,
    stated_number,
    stated_word,
    trace_key,
)

CONFIG = TraceConfig()
LOOP = "we look again at the first bar and see that it is tall , " * 20


def row(answer: str, verifier: str = "int", args: str = "{}") -> Row:
    return {"question": "how many ?", "answer": answer, "verifier": verifier, "verifier_args": args}


def reason(trace: str, answer: str = "7", verifier: str = "int", args: str = "{}") -> str:
    return check_trace(row(answer, verifier, args), trace, CONFIG)[0]


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        ("", "empty_trace"),
        ("  \n ...", "empty_trace"),
        ("so 7", ""),
        ("As an AI language model I count 7", "forbidden_phrase"),
        ("I can\u2019t  see the\nimage, so 7", "forbidden_phrase"),
        ("the ai in the picture says 7", ""),
        ("so</think> 7", "forbidden_phrase"),
        ("<image> shows 7", "forbidden_phrase"),
        (LOOP + "so 7", "looping_trace"),
        ("we look once at the first bar , so 7", ""),
        ("4 + 3 , so 8", "inconsistent_trace"),
        ("let me look at the picture", "inconsistent_trace"),
        ("4 + 4 = 8, no: so 7", ""),
        ("4 + 4 = 9, no: so 7", "wrong_step"),
    ],
)
def test_each_reason_and_its_neighbor(trace: str, expected: str) -> None:
    assert reason(trace) == expected
    assert expected in ("", *TRACE_REASONS)


@pytest.mark.parametrize(
    ("trace", "number"),
    [
        ("look : 2 digits : 3 8 ; then 3 , 8 > 15 ; so 15", "15"),
        ("3 + 4 = 7 apples in 2 boxes.", "7"),
        ("They have 7 in 2 boxes.", "2"),
        ("first 3. The answer is 7 apples. I used 2 steps", "7"),
        (r"\boxed{7} by rule 2", "7"),
        ("There are 12 dogs; so seven in all", "7"),
        ("3 cats.\nso five animals", "5"),
        ("x = 1,200", "1200"),
        ("7.50 euros", "7.50"),
        ("so of the 12 dogs 7 are brown", "7"),
        ("4 + 4 = 8, so 7", "7"),
        ("so 3 + 4 = $7 in 2 bags", "7"),
        ("it is -3", "-3"),
        ("= \u22123", "-3"),
        ("3 \u2212 8 = \u22125.", "-5"),
        ("5-3", "3"),
        ("= -3", "-3"),
        ("3/4 of it", "3/4"),
        ("the 7th of 9, the 3rd", "9"),
        ("12kg", "12"),
        ("nothing", ""),
        ("Sold 48/2 = <<48/2=24>>24 clips", "24"),
        ("\n#### 72", "72"),
        ("v2", ""),
        ("17%", "17"),
        ("so there are seventeen", "17"),
        ("That makes Twenty-one dogs.", "21"),
        ("so ninety nine in all", "99"),
        ("so a hundred", "100"),
        ("so two hundred and five", "205"),
        ("forty, and one more", "1"),
        ("so sixty", "60"),
    ],
)
def test_the_number_that_a_trace_comes_to(trace: str, number: str) -> None:
    assert stated_number(trace) == number


def test_numbers_agree_by_value_and_within_the_rows_tolerance() -> None:
    assert reason("so 7.0") == "" == reason("so 1,200", "1200") == reason("so 0.75", "3/4", "exact")
    assert reason("so 3.1", "3.14", "number") == "inconsistent_trace"
    assert reason("3/25 = 12%", "12%", "number") == "" == reason("so 0.12", "12%", "number")
    assert reason("so 13%", "12%", "number") == "inconsistent_trace"
    assert reason("so 3.1", "3.14", "number", '{"abs_tol": 0.05}') == ""
    assert reason(r"it is \boxed{\frac{3}{4}}", "3/4", "number") == ""
    assert reason("so 5 cm", "5 cm", "number") == "" == reason("so 5", "5 cm", "number")
    assert reason(r"\boxed{80{,}000}", "80000") == "" == reason("that is 5 million", "5000000")
    assert reason(r"it is \boxed{\frac{3}{5}}", "3/4", "number") == "inconsistent_trace"
    assert reason("so 8", "7", "exact") == "inconsistent_trace", (
        "an answer that is a number is one, whatever the verifier"
    )
    assert reason("so 8", "x + 7", "math") == "" == reason("so blue", "red", "exact"), (
        "what cannot be told passes"
    )


@pytest.mark.parametrize(
    ("trace", "answer", "expected"),
    [
        ("... so the answer is B", "B", ""),
        ("... so the answer is C", "B", "inconsistent_trace"),
        (r"\boxed{(b)} holds", "B", ""),
        ("so C", "B", "inconsistent_trace"),
        ("so (B).", "B", ""),
        ("the answer is Paris", "B", ""),
        ("the answer is B", "Paris", ""),
        ("option C is wrong, look at B", "A", ""),
        ("The answer is no. It is small.", "yes", "inconsistent_trace"),
        ("there is no sun; so yes", "yes", ""),
        ("therefore no", "yes", "inconsistent_trace"),
        ("the answer is the city of Paris", "paris", ""),
        ("the answer is Rome", "paris", "inconsistent_trace"),
        ("so it is the tall one on the left", "yes", ""),
    ],
)
def test_options_and_words(trace: str, answer: str, expected: str) -> None:
    assert reason(trace, answer, "choice") == expected


def test_a_conclusion_is_one_word() -> None:
    assert (
        stated_word("we see a circle; so circle.") == "circle"
        and stated_word("so we look at it") == ""
    )


@pytest.mark.parametrize(
    "trace",
    ["so cat" + "!?" * 32000 + "b c", "<<" * 32000, "so " + "cat " * 16000, "<<1" * 16000 + ">>"],
)
def test_a_trace_of_64_kb_is_read_at_once(trace: str) -> None:
    """Patterns are linear in the text: one of 31 kB took 13 s."""
    started = time.process_time()
    stated_word(trace), stated_number(trace)
    assert time.process_time() - started < 2.0


def test_steps_are_checked_unless_the_recipe_says_no() -> None:
    lenient = TraceConfig(check_steps=False)
    assert check_trace(row("7"), "4 + 4 = 9, no: so 7", lenient) == ("", "")
    assert check_trace(row("7"), "4 + 4 = 9, no: so 7", CONFIG) == ("wrong_step", "4 + 4 = 9")


def test_every_trace_of_the_families_passes() -> None:
    names = ("digits", "charts", "arithmetic", "sums")
    sources = [
        *(SourceConfig(family=name) for name in names),
        SourceConfig(family="reasoning_gym", tasks=("leg_counting",)),
    ]
    for source in sources:
        for index in range(60):
            s = family_of(source)(index, "train", 1, (1.0, 1.0, 1.0))
            asked = {
                "question": s.question,
                "answer": s.answer,
                "verifier": s.verifier,
                "verifier_args": s.verifier_args,
            }
            assert check_trace(asked, s.trace, CONFIG) == ("", ""), s.trace
            other = str(int(s.answer) + 1)
            assert (
                check_trace(asked | {"answer": other}, s.trace, CONFIG)[0] == "inconsistent_trace"
            )


def test_traces_are_the_same_whatever_their_case_and_blanks() -> None:
    assert trace_key("So  7\n") == trace_key("so 7") != trace_key("so 8")
    assert -(2**63) <= trace_key("x") < 2**63
