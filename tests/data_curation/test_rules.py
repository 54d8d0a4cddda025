"""Each rule by which a row repeats another, with its neighbors that must stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bimode.config.curate import DedupConfig
from tests.data_curation.deciding import STORY, Case, reasons, run


def test_a_near_picture_counts_with_the_same_question_and_answer_only(tmp_path: Path) -> None:
    first = Case("first", pictures=((1, 0),))
    run(
        tmp_path,
        [
            first,
            replace(first, id="copy", pictures=((1, 1),)),
            replace(first, id="answer", pictures=((1, 2),), answer="18"),
            replace(first, id="question", pictures=((1, 3),), question="bars ?"),
            replace(first, id="else", pictures=((2, 0),)),
            replace(first, id="two", pictures=((1, 4), (1, 4))),
            replace(first, id="none", pictures=()),
        ],
    )
    assert {key: value for key, value in reasons(tmp_path).items() if value[0]} == {
        "copy": ("near_duplicate", "first", "")
    }


def test_no_radius_is_exact_pixels_only(tmp_path: Path) -> None:
    cases = [
        Case("item", "eval", pictures=((1, 0),)),
        Case("copy", pictures=((1, 1),)),
        Case("words", question="so ?", pictures=((1, 2),)),
    ]
    assert run(tmp_path, cases, config=DedupConfig(image_radius=0)).kept == 3
    assert run(tmp_path, cases).kept == 1


def test_a_leak_with_another_wording_is_found_by_picture_and_answer(tmp_path: Path) -> None:
    item = Case("item", "eval", pictures=((1, 0),))
    run(
        tmp_path,
        [
            item,
            Case("reworded", question="Divide what you see.", pictures=((1, 1),)),
            Case("rl", "rl", question="Divide what you see!", pictures=((1, 2),)),
            Case("other answer", question="Divide.", answer="3", pictures=((1, 3),)),
            Case("elsewhere", question="Divide.", pictures=((2, 0),)),
            Case("eval too", "eval", question="Divide this.", pictures=((1, 4),)),
        ],
    )
    out = {key: value for key, value in reasons(tmp_path).items() if value[0]}
    assert out == {
        "reworded": ("contaminated", "item", "near image + answer"),
        "rl": ("contaminated", "item", "near image + answer"),
    }


@pytest.mark.parametrize("answer", ["yes", "No", "b", "(C)", "4", "common"])
def test_an_answer_that_says_little_needs_a_shared_subject(tmp_path: Path, answer: str) -> None:
    """The common one is that of 4 of 20 items; 1 of 20 would not be."""
    items = [
        Case(f"item-{k}", "eval", f"is there a dog near tree {k} ?", answer, ((k, 0),))
        for k in range(4)
    ]
    fillers = [
        Case(f"filler-{k}", "eval", "what ?", f"answer {k}", ((10 + k, 0),)) for k in range(16)
    ]
    run(
        tmp_path,
        items + fillers,
        [
            Case(
                "same", question="can you see a dog by tree 2 ?", answer=answer, pictures=((2, 1),)
            ),
            Case("other", question="are three men hurt ?", answer=answer, pictures=((2, 2),)),
            Case("rare", question="are three men hurt ?", answer="answer 5", pictures=((15, 2),)),
        ],
    )
    out = {key: value[:2] for key, value in reasons(tmp_path).items() if value[0]}
    assert out == {"same": ("contaminated", "item-2"), "rare": ("contaminated", "filler-5")}


def test_an_edited_text_is_the_same_and_one_with_other_numbers_is_not(tmp_path: Path) -> None:
    run(
        tmp_path,
        [
            Case("text", question=STORY, answer="353"),
            Case("edit", "rl", f"Question: {STORY.lower()}", "353"),
            Case("number", question=STORY.replace("7 of", "8 of"), answer="353"),
            Case("answer", question=STORY + " Say.", answer="352"),
            Case("picture", question=STORY + " Now!", answer="353", pictures=((1, 0),)),
            Case("short", question="what is the capital of France ?"),
            Case("short2", question="what is the capital of France then ?"),
        ],
    )
    assert {key: value for key, value in reasons(tmp_path).items() if value[0]} == {
        "edit": ("near_duplicate", "text", "")
    }


def test_an_edited_item_is_found_by_its_text_or_by_a_run_of_its_words(tmp_path: Path) -> None:
    item = Case("item", "eval", STORY, "353")
    cases = [
        item,
        Case("edit", question=f"Question: {STORY}", answer="353"),
        Case(
            "part",
            question="Amara unloads 12 crates that hold 30 lemons each and finds 7 coins. So what?",
            answer="4",
        ),
        Case(
            "numbers",
            question="Amara unloads 12 crates that hold 30 lemons each and finds 9 coins. So what?",
            answer="4",
        ),
        Case(
            "picture",
            question="Amara unloads 12 crates that hold 30 lemons each, 7 in all.",
            pictures=((1, 0),),
        ),
    ]
    counts = run(tmp_path, cases)
    assert {key: value for key, value in reasons(tmp_path).items() if value[0]} == {
        "edit": ("contaminated", "item", "similar text"),
        "part": ("contaminated", "item", "8-gram"),
    }
    assert counts.methods == (("8-gram", 1), ("similar text", 1)) and counts.by_ngram == 1.0
    assert run(tmp_path, cases, config=DedupConfig(ngram=0, text_similarity=0)).kept == 5


def test_a_run_of_words_counts_with_the_same_picture_only(tmp_path: Path) -> None:
    asks = "how tall is the bar of the year 1999 in this chart of rainfall"
    run(
        tmp_path,
        [
            Case("item", "eval", f"{asks} ?", "12 cm", ((1, 0),)),
            Case("near", question=f"{asks} about ?", answer="12", pictures=((1, 1),)),
            Case("same", question=f"{asks} then ?", answer="12.0", pictures=((1, 0),)),
            Case("other", question=f"{asks} about ?", answer="13", pictures=((2, 0),)),
        ],
    )
    assert {key: value for key, value in reasons(tmp_path).items() if value[0]} == {
        "near": ("contaminated", "item", "8-gram"),
        "same": ("contaminated", "item", "8-gram"),
    }


def test_the_first_item_is_named_where_several_are_repeated(tmp_path: Path) -> None:
    asks = "how tall is the bar of the year 1999 in this chart of rainfall"
    items = [
        Case(f"item-{k}", "eval", f"{asks} ?", f"{12 + k} cm", ((1, 2 - k),)) for k in range(3)
    ]
    run(
        tmp_path,
        [
            *items,
            Case("same as the last", question=f"{asks} about ?", answer="12.0", pictures=((1, 0),)),
        ],
    )
    assert reasons(tmp_path)["same as the last"] == ("contaminated", "item-0", "8-gram")


def test_the_shares_of_items_that_can_be_checked_are_told(tmp_path: Path) -> None:
    """Two short ones, four of one template, one with a text of its own; a duplicate is no item any
    more.
    """
    template = "read the strip as one number ; what is its remainder by 23 ?"
    counts = run(
        tmp_path,
        [
            Case("a", "eval", "how many ?"),
            Case("b", "decontaminate", "how many then ?"),
            Case("c", "eval", STORY),
            Case("c2", "eval", STORY),
            *(Case(f"t{k}", "eval", template, str(k), ((k, 0),)) for k in range(4)),
            Case("train", question="so ?"),
        ],
    )
    assert (counts.items, counts.by_ngram, counts.by_image) == (7, 1 / 7, 4 / 7)
