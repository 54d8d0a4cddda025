"""What a row's answer asks for: its verifier, the form it is stored in, how far a number may be
off.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from bimode.config.curate import Layout, SourceConfig
from bimode.grading.verify import is_correct
from bimode.records import Sample
from data_curation.sources.layouts import read_record
from data_curation.sources.refusal import Refusal

COLUMNS = {"question": "question", "answer": "answer"}


def converted(layout: Layout, record: dict[str, Any], **more: Any) -> Sample | Refusal:
    columns = COLUMNS if layout == "columns" else {}
    source = SourceConfig(path="data/set.parquet", layout=layout, columns=columns, **more)
    return read_record(record, source, "a#0", lambda path: b"")


def row(answer: object, question: str = "How tall?", **more: Any) -> Sample:
    found = converted("columns", {"question": question, "answer": answer}, **more)
    assert isinstance(found, Sample), found
    return found


def chart(label: str, query: str = "How tall?", **more: Any) -> Sample:
    found = converted("chartqa", {"image": b"a picture", "query": query, "label": [label]}, **more)
    assert isinstance(found, Sample), found
    return found


def is_right(stated: str, found: Sample) -> bool:
    return is_correct(f"</think>{stated}", found.answer, found.verifier, found.verifier_args)


@pytest.mark.parametrize(
    ("answer", "verifier", "stored"),
    [
        ("42", "int", "42"),
        ("-1,234", "int", "-1234"),
        (7, "int", "7"),
        (Decimal(7), "int", "7"),
        ("$5$", "int", "5"),
        (r"\boxed{5}", "int", "5"),
        ("80{,}000", "int", "80000"),
        ("1,234.5", "number", "1,234.5"),
        (0.5, "number", "0.5"),
        ("3/4", "number", "3/4"),
        ("1e3", "number", "1e3"),
        ("12%", "number", "12%"),
        ("12 percent", "number", "12 percent"),
        (Decimal("0.50"), "number", "0.50"),
        (0.1 + 0.2, "number", "0.30000000000000004"),
        (r"\frac{3}{4}", "number", r"\frac{3}{4}"),
        ("5 cm", "number", "5 cm"),
        ("$80,000", "number", "$80,000"),
        (r"90^\circ", "number", r"90^\circ"),
        ("x = 5", "number", "x = 5"),
        ("9" * 101, "number", "9" * 101),
        (r"2\sqrt{3}", "math", r"2\sqrt{3}"),
        ("5!", "math", "5!"),
        ("x^2", "math", "x^2"),
        (r"$2\sqrt{3}$", "math", r"$2\sqrt{3}$"),
        (r"the area is $\pi r^2$", "open", ""),
        ("1/0", "choice", "1/0"),
        ("1.2.3", "choice", "1.2.3"),
        ("circle", "choice", "circle"),
        ("Yes", "choice", "Yes"),
        ("B", "choice", "B"),
        ("a word", "open", "a word"),
        ("...", "open", "..."),
        ("x" * 41, "open", "x" * 41),
    ],
)
def test_auto_takes_the_strictest_verifier_that_the_answer_passes(
    answer: object, verifier: str, stored: str
) -> None:
    found = row(answer)
    assert (found.verifier, found.answer) == (verifier, stored or answer)
    assert found.verifier_args == "{}"
    assert verifier == "open" or is_right(stored, found)


def test_a_formula_is_not_compared_as_words() -> None:
    assert is_right(r"\frac{6}{8}", row(r"\frac{3}{4}")) and is_right(
        r"\sqrt{12}", row(r"2\sqrt{3}")
    )
    assert is_right("120", row("5!")) and not is_right("5", row("5!"))


def test_a_named_verifier_is_taken_and_int_wants_an_integer() -> None:
    assert row("x^2", verifier="math").verifier == "math"
    assert row("1,000", verifier="int").answer == "1000"
    for answer in ("the answer is 5", "5 cm", "5.0", "5 or 6"):
        refused = converted("columns", {"question": "?", "answer": answer}, verifier="int")
        assert refused == Refusal("a#0", "bad_record", "answer: not an integer"), answer


@pytest.mark.parametrize(
    "query", ["How many bars?", "What is the number of bars?", "In which year was it?"]
)
def test_what_a_question_counts_is_compared_exactly(query: str) -> None:
    for found in (chart("40", query), chart("40", query, rel_tol=0.1)):
        assert (found.answer, found.verifier, found.verifier_args) == ("40", "int", "{}")
    share = chart("40.5", query)
    assert (share.verifier, share.verifier_args) == ("number", '{"rel_tol": 0.05}')


def test_a_year_is_compared_exactly_whatever_the_question() -> None:
    found = chart("2009", "Which one is it?")
    assert is_right("2009", found) and not is_right("1910", found) and not is_right("2010", found)
    assert is_right("41", chart("40")) and not is_right("43", chart("40"))


def test_the_tolerance_is_a_key_of_the_source() -> None:
    found = row("40", rel_tol=0.1)
    assert is_right("44", found) and not is_right("44.1", found)
    assert row("40").verifier == "int" and not is_right("41", row("40", verifier="number"))
    assert not is_right("41", chart("40", rel_tol=0.0))
    assert row("40", rel_tol=0.1, verifier="number").verifier_args == '{"rel_tol": 0.1}'


def test_a_tolerance_that_nothing_reads_is_refused() -> None:
    for verifier in ("exact", "int", "choice", "math"):
        with pytest.raises(ValueError, match=r"rel_tol = 0\.1: applies to files with"):
            row("40", rel_tol=0.1, verifier=verifier)
    with pytest.raises(ValueError, match=r"rel_tol = 0\.1: applies to files with"):
        SourceConfig(family="digits", rel_tol=0.1)
