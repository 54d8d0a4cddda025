"""Arithmetic in traces: every step of the built-in families is right, planted errors are found, and
prose is left alone.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.config.curate import SourceConfig
from data_curation.demo import family_of
from data_curation.traces.steps import wrong_step

MODULO = "what is the remainder by 23 ?"
SOURCES = [SourceConfig(family=name) for name in ("digits", "charts", "arithmetic", "sums")]
SOURCES += [
    SourceConfig(family="reasoning_gym", tasks=(task,)) for task in ("chain_sum", "leg_counting")
]
RESULT = re.compile(r"(?<=> )-?\d+")


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.tasks[0] if s.tasks else s.family)
def test_the_traces_of_the_families_are_right_and_any_changed_result_is_found(
    source: SourceConfig,
) -> None:
    steps = 0
    for index in range(40):
        sample = family_of(source)(index, "train", 0, (1.0, 1.0, 1.0))
        assert wrong_step(sample.trace, sample.question) == "", sample.trace
        for place in RESULT.finditer(sample.trace):
            changed = (
                f"{sample.trace[: place.start()]}{int(place[0]) + 1}{sample.trace[place.end() :]}"
            )
            assert wrong_step(changed, sample.question), changed
            steps += 1
        concluded = re.sub(r"so (-?\d+)$", lambda m: f"so {int(m[1]) + 1}", sample.trace)
        assert bool(wrong_step(concluded, sample.question)) == (" > " in sample.trace), (
            "what is concluded must be the last result"
        )
    assert steps > 40


def test_the_wrong_step_is_shown() -> None:
    assert (
        wrong_step("look : 3 digits : 3 8 1 ; then 3 , 8 > 15 , 1 > 14 ; so 14", MODULO)
        == "15 , 1 > 14"
    )
    assert wrong_step("12 + 35 > 47 ; - 14 > 34 ; so 34") == "47 - 14 > 34"
    assert wrong_step("then 3 x 9 > 4 ; so 5", MODULO) == "> 4 ; so 5"
    assert wrong_step("then 3 x 9 > 4 ; so 4", "what is 3 x 9 ?") == "3 x 9 > 4", (
        "right by 23 only where the question says so"
    )
    assert wrong_step("It costs 48/2 = <<48/2=25>>24 euros.") == "48/2=25"


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 8",
        "3+4=8",
        "so 12 - 5 = 8.",
        "- 3 + 4 = 8",
        "* 3 + 4 = 8",
        "-3 + 4 = 7",
        "1. 3 + 4 = 8",
        "Total: 3 x 4 = 13",
        "3 \u00d7 4 = 13",
        r"3 \times 4 = 13",
        "12 \u00f7 4 = 4",
        "(3 + 4) * 2 = 15",
        "2 + 3 * 4 = 20",
        "1,200 + 300 = 1,600",
        "$5 * 4 = $21",
        "10 / 2 = 6",
        "10 / 4 = 2.6",
        "22 / 7 = 3.2",
        "20 * 50% = 11",
        "a total of 2*70 = 139 eggs",
        "3 + 4 = 7, and then 7 + 2 = 10",
        "9 pears - 2 pears = 8 pears",
        "9 pears - 2 = 8 pears",
        "x = 3 + 4 = 8",
        "12 = 3 * 5",
        "1/2 + 1/4 = 2/4",
        "(3 + 4 = 8)",
        "(cm) 3 + 4 = 8 (cm)",
        "2 / 3 = 0.68",
        "3 + 8 = 11 + 1 = 13",
        "14 \u00f7 1/2 = 7",
        "40.33 - 50 = -9.5",
        "40.33 - 50 = 9.7",
    ],
)
def test_planted_errors_are_found(text: str) -> None:
    assert wrong_step(text), text


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 7",
        "- 3 + 4 = 7",
        "-3 + 4 = 1",
        "2 + 3 * 4 = 14",
        "(3 + 4) * 2 = 14",
        "10 / 3 = 3.33",
        "10 / 3 = 3",
        "22/7 = 3.14",
        "10 / 4 = 3",
        "2 / 3 = 0.66",
        "2 / 3 = 66.7%",
        "10 / 3 = 3.33 + 1 = 4.33",
        "(3 + 4 = 7)",
        "(cm) 3 + 4 = 7 (cm)",
        "0.5 + 0.25 = 0.8",
        "40.33 - 50 = -9.7",
        "1 - 5 / 3 = -0.67 degrees",
        "3 + 8 = 11 + 1 = 12",
        "20 * 50% = 10",
        "100% - 30% = 70%",
        "14 \u00f7 1/2 = 28",
        "12 = 3 * 4",
        "3.14 * 2.5 * 2.5 = 19.63",
        "9 pears - 2 pears = 7 pears",
        "17 / 5 = 3 remainder 2",
        "17 / 5 = 3 r 2",
        # parts of something else
        "x + 3 * 4 = 14",
        "2x + 3 = 9",
        "3 * y = 12",
        "7 = 3 + y",
        "3x = 12",
        "f(3) + 1 = 10",
        "a_2 + 1 = 9",
        "2^3 + 1 = 9",
        "10^2 = 100",
        "log 8 / 3 = 1",
        "20% of 50 + 5 = 15",
        "half of 10 + 2 = 7",
        "twice 3 + 1 = 7",
        "x = 5 = y",
        "bar 3 = 4 + 5",
        "2 hours * 60 = 120 minutes",
        "2 hours + 30 minutes = 150 minutes",
        "5 feet * 12 = 60 inches",
        "4 boxes * 3 eggs = 12 eggs",
        "10:30 + 45 = 11:15",
        "3:4 = 6:8",
        "48 / 12 = 4 dozen",
        "500 * 2 = 1 thousand",
        "since 5 + 3 > 7 it fits",
        "3 + 4 != 8",
        "3 + 4 >= 5",
        "if a == 3 + 4 == 8",
        "(2, 3) = 5",
        "2020-05-01 = today",
        "7 / 0 = 0",
        "= 5",
        "3 + = 5",
        "2 1/2 + 1 = 3 1/2",
        "(1 + 2) 3 = 9",
        "1,5 + 2 = 3,5",
        "100 - 20% = 80",
        "-> 3 + 4 =",
        "1 + 1 = 10 mod 8",
        "",
        "so 15",
        "look : 1 digits : 3 ; then 3 ; so 3",
    ],
)
def test_right_steps_and_what_is_no_whole_step_pass(text: str) -> None:
    assert wrong_step(text) == ""


@given(st.text(alphabet="0123456789+-*/=()%$.,:; xXabcof\n\\<>", max_size=60))
def test_no_text_makes_it_stumble(text: str) -> None:
    assert isinstance(wrong_step(text, MODULO), str)


@given(
    st.integers(0, 999),
    st.integers(1, 999),
    st.sampled_from("+-*/"),
    st.integers(-3, 3),
    st.sampled_from(["{}", "so {} in all", "- {}.", "Ann has {} left", "(by rule) {} (see)"]),
)
def test_a_step_is_wrong_exactly_if_its_result_is(
    a: int, b: int, op: str, off: int, around: str
) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[op]
    if value != int(value):
        return
    step = f"{a} {op} {b} = {int(value) + off}"
    assert bool(wrong_step(around.format(step))) == (off != 0)
    assert bool(wrong_step(around.format(step.replace(" ", "")))) == (off != 0)


def test_a_long_sum_without_an_end_is_read_in_time() -> None:
    assert wrong_step("1+" * 16000 + "1") == "" == wrong_step("1+1=2=" * 5000)
