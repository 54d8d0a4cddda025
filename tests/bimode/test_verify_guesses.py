r"""Answers that hedge, or say the same in another unit: two letters are none, the last box counts,
50 % is 50 and 0.5.
"""

from __future__ import annotations

import pytest

from bimode.grading.verify import is_correct

DIRECT = "\n\n</think>\n\n"
HEDGES = (
    "(A) or (B)",
    "A) or B)",
    "A. or B.",
    "(A)/(B)",
    "(A), (B)",
    "(A) (B)",
    "(A) or B",
    "A) and B",
    "(a), b",
    "A; B",
    "(A) is wrong, (B) is right",
    "The answer is (A) or (B).",
    r"\boxed{(A) or (B)}",
    "Not A but B",
    "A or B",
    "A, B",
    "A/B",
)


@pytest.mark.parametrize("stated", HEDGES)
@pytest.mark.parametrize("answer", ["A", "B"])
def test_who_names_two_letters_has_named_none(stated: str, answer: str) -> None:
    assert not is_correct(DIRECT + stated, answer, "choice", "{}")


@pytest.mark.parametrize(
    "stated",
    [
        "The answer is B. A is wrong",
        "B. A cat",
        "(B), a cat",
        "(B), I think",
        "B. Vitamin C.",
        "(B) the cat(s)",
        "B: plan A",
        "The answer is (B). (A) is a plant, and (C) is none.",
        "Answer: B) the cat\n(A) is wrong",
        "(B) or, in words, (b)",
        "(B) and nothing else",
        "A or B? The answer is B.",
        r"\boxed{A}, no: \boxed{B}",
        "(B) orange",
    ],
)
def test_a_letter_with_words_behind_it_stays_one(stated: str) -> None:
    assert is_correct(DIRECT + stated, "B", "choice", "{}")


@pytest.mark.parametrize("verifier", ["int", "number", "math"])
@pytest.mark.parametrize("between", [" ", "", ", ", " and ", " no, wait: "])
def test_of_several_boxes_the_last_counts_for_every_verifier(verifier: str, between: str) -> None:
    stated = DIRECT + rf"\boxed{{5}}{between}\boxed{{6}}."
    assert is_correct(stated, "6", verifier, "{}") and not is_correct(stated, "5", verifier, "{}")


def test_a_box_with_a_list_or_without_an_end_is_read_as_before() -> None:
    assert is_correct(DIRECT + r"\boxed{5, 6}", "5,6", "math", "{}")
    assert is_correct(DIRECT + r"\boxed{\frac{1}{2}}", "0.5", "math", "{}")
    assert not is_correct(DIRECT + r"\boxed{5", "5", "int", "{}") and not is_correct(
        DIRECT + r"\boxed{}", "5", "math", "{}"
    )


@pytest.mark.parametrize(
    "stated",
    ["50%", "50 %", r"$50\%$", "50 percent", "The answer is 50 per cent.", r"\boxed{50\%}"],
)
def test_a_percentage_is_meant_as_itself_or_as_its_hundredth(stated: str) -> None:
    for answer in ("50", "0.5", "1/2"):
        assert is_correct(DIRECT + stated, answer, "number", "{}"), answer
    for answer in ("5", "0.005", "5000"):
        assert not is_correct(DIRECT + stated, answer, "number", "{}"), answer
    assert is_correct(DIRECT + stated, "50", "int", "{}") and not is_correct(
        DIRECT + stated, "5", "int", "{}"
    )


@pytest.mark.parametrize("answer", ["12%", "12 %", r"12\%", "12 percent"])
def test_a_percentage_that_is_asked_for_is_a_number(answer: str) -> None:
    for stated in ("12%", "12", "0.12", r"\boxed{12.0\%}", "The answer is 12 per cent."):
        assert is_correct(DIRECT + stated, answer, "number", "{}"), stated
    for stated in ("1200%", "0.12%", "1200", "0.0012", "%"):
        assert not is_correct(DIRECT + stated, answer, "number", "{}"), stated
    assert is_correct(DIRECT + "0.125", answer, "number", '{"rel_tol": 0.05}')
    assert not is_correct(DIRECT + "0.13", answer, "number", '{"rel_tol": 0.05}')


def test_a_percentage_keeps_its_tolerance_and_is_a_number() -> None:
    assert is_correct(DIRECT + "52%", "50", "number", '{"rel_tol": 0.05}')
    assert not is_correct(DIRECT + "53%", "50", "number", '{"rel_tol": 0.05}')
    assert not is_correct(DIRECT + "%", "0", "number", "{}") and not is_correct(
        DIRECT + "50%%", "50", "number", "{}"
    )
