"""N-grams, numbers and subjects: what two wordings have in common, by hand."""

from __future__ import annotations

from itertools import product

import pytest

from data_curation.dedup.ngrams import (
    EvaluationRuns,
    Question,
    numbers,
    runs,
    share_subject,
    words,
)
from data_curation.demo import arithmetic, charts, digits

REWORDED = {
    digits.QUESTIONS: (
        "Divide the number written in this picture by twenty-three and tell me what is left over.",
        "What do you get when the handwritten number is reduced mod 23?",
        "Suppose you share that many marbles among 23 children; how many marbles stay in the bag?",
    ),
    charts.QUESTIONS: (
        (
            "Starting at the left, multiply the first two heights, add the third, and so on,"
            " modulo 23."
        ),
        (
            "Give the residue modulo twenty-three that you reach by combining the columns with"
            " times, plus, times, ..."
        ),
    ),
    arithmetic.QUESTIONS: (
        (
            "Do the operations one after the other as they appear, then state the rest after"
            " division by 23."
        ),
        (
            "Which residue modulo twenty-three does the written calculation give when done in"
            " reading order?"
        ),
    ),
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Twenty-three of 1,200 in 3.5 h.", ("1200", "23", "3.5")),
        ("bars 3,4,5 and 12.", ("12", "3", "4", "5")),
        ("which one of ninety four or eleven", ("11", "94")),
        ("twenty, one", ("20",)),
        (
            "zero or a hundred, two hundred and five, one hundred thirty-one or hundreds",
            ("0", "100", "131", "205"),
        ),
        ("often tended weightlifting", ()),
        ("\uff15 and \u0665", ("5", "\u0665")),
    ],
)
def test_numbers_are_found_in_digits_and_in_words(text: str, found: tuple[str, ...]) -> None:
    assert numbers(text) == found


def test_runs_are_those_of_words_whatever_case_and_punctuation() -> None:
    assert words("Don't  stop, NOW!") == ["don", "t", "stop", "now"]
    assert len(runs("a b c d", 3)) == 2 and runs("a b", 3) == set()
    assert runs("A b; c", 3) == runs("a, b c?", 3) != runs("a c b", 3)


@pytest.mark.parametrize("asked", REWORDED)
def test_rewordings_share_their_subject(asked: tuple[str, ...]) -> None:
    """The wordings of the planted leaks: a spelled-out number is the only thing that some have in
    common.
    """
    assert all(share_subject(*pair) for pair in product(asked, REWORDED[asked]))


def test_another_question_about_the_picture_shares_none() -> None:
    for other in (
        "how many digits are on the strip ?",
        "which digit stands at the very left of the strip ?",
    ):
        assert not any(share_subject(asked, other) for asked in digits.QUESTIONS)
    assert not share_subject("Is there a dog in the picture?", "Is it raining in the picture?")
    assert not share_subject(
        "Which one is it?", "What is this?"
    )  # nothing but stop words is nothing in common
    assert share_subject("Is there a dog in the picture?", "Can you see a dog?")
    assert not share_subject("add 3 and 4", "subtract 3 from 5 and 6")  # one number of three


def test_an_item_is_found_by_a_run_of_its_words_with_the_same_numbers() -> None:
    item = Question("item", "a choir of 12 singers needs 3 candles per singer for the show")
    found = EvaluationRuns([item], 8)
    others = {
        "same": "Question: A choir of 12 singers needs 3 candles per singer; guess the total!",
        "other_numbers": "A choir of 14 singers needs 3 candles per singer for the show",
        "more_numbers": "A choir of 12 singers needs 3 candles per singer for the show and 4 more",
        "seven_words": "of 12 singers needs 3 candles per, that is all",
    }
    assert list(found.matches(Question(key, text) for key, text in others.items())) == [
        ("same", "item")
    ]


def test_what_more_than_three_items_say_identifies_none() -> None:
    template = "what is the remainder of this long expression modulo {}"
    for rows, checkable in ((3, {"a"}), (4, set())):
        found = EvaluationRuns([Question("a", template.format(23), rows)], 8)
        assert found.checkable == checkable
        assert bool(list(found.matches([Question("b", template.format(23))]))) == bool(checkable)
    four = [Question(str(k), f"{template.format(k)} told by {k} men") for k in range(4)]
    assert EvaluationRuns(four, 8).checkable == {
        "0",
        "1",
        "2",
        "3",
    }  # each has its own runs behind the template
    assert EvaluationRuns(four[:3], 20).checkable == frozenset()  # too short


def test_matches_come_in_the_order_of_questions_and_keys() -> None:
    text = "when the long train had left everybody went home"
    items = EvaluationRuns([Question("b", text), Question("a", f"{text} again")], 8)
    assert list(items.matches([Question("z", text), Question("y", text)])) == [
        ("z", "a"),
        ("z", "b"),
        ("y", "a"),
        ("y", "b"),
    ]
