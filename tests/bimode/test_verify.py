"""Verdicts of the one judge: typed answers, closed think blocks, and inputs made to fool or hang
it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bimode.errors import ConfigError
from bimode.grading.verifier_args import PUZZLES
from bimode.grading.verify import final_answer, is_correct
from bimode.modes import Mode, render_response
from data_curation.demo.text import TASKS

DIRECT = "\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("verifier", "stated", "answer", "right"),
    [
        ("exact", " 2  digits : 3 8 ", "2 digits : 3 8", True),
        ("exact", "12 .", "12", False),
        ("int", "15", "15", True),
        ("int", "+015", "15", True),
        ("int", "The answer is 1,200.", "1200", True),
        ("int", r"so \boxed{-3}", "-3", True),
        ("int", "15.0", "15", False),
        ("int", "14 15 16", "15", False),
        ("number", "0.50", "1/2", True),
        ("int", "\u22125", "-5", True),
        ("int", "-5", "\u22125", True),
        ("int", "**Answer:** 5", "5", True),
        ("int", "The **answer** is **5**.", "5", True),
        ("int", "$5$", "5", True),
        ("int", "$5$ or $6$", "5", False),
        ("int", "**5** **6**", "5", False),
        ("number", "\u22121/2", "-0.5", True),
        ("number", "*.5*", "0.5", True),
        ("number", "1/0", "1", False),
        ("number", "about 3", "3", False),
        ("choice", "(b)", "B", True),
        ("choice", "B. the cat", "B", True),
        ("choice", "**B**", "B", True),
        ("choice", r"\boxed{\text{B}}", "B", True),
        ("choice", "Stop!", "Stop!", True),
        ("choice", "the cat", "The  cat", True),
        ("choice", "\u662f", "\u662f", True),
        ("choice", "\u662f", "\u5426", False),
        ("choice", "A", "B", False),
        ("choice", "A cat", "A", False),
        ("choice", "Yes.", "yes", True),
        ("choice", "Circle", "circle", True),
        ("choice", "no", "yes", False),
    ],
)
def test_typed_answers(verifier: str, stated: str, answer: str, right: bool) -> None:
    assert is_correct(DIRECT + stated, answer, verifier, "{}") is right


def test_numbers_take_their_tolerance_from_the_arguments() -> None:
    assert not is_correct(DIRECT + "103", "100", "number", "{}")
    assert is_correct(DIRECT + "103", "100", "number", '{"rel_tol": 0.03}')
    assert not is_correct(DIRECT + "103.1", "100", "number", '{"rel_tol": 0.03}')
    assert is_correct(
        DIRECT + "0.3", "0.1", "number", '{"abs_tol": 0.2}'
    )  # exact: 0.3 - 0.1 is 0.2 here


@pytest.mark.parametrize(
    "text", ["15", "<think>\nso 15", DIRECT, "<think>\n15\n</think>", DIRECT + "15 " * 1000]
)
def test_without_an_answer_after_a_closed_block_nothing_is_right(text: str) -> None:
    assert not is_correct(text, "15", "int", "{}")


@pytest.mark.parametrize("mode", [Mode.THINKING, Mode.NON_THINKING])
def test_rendered_responses_are_judged_by_their_answer_and_not_by_their_trace(mode: Mode) -> None:
    assert is_correct(render_response(mode, "first 7 then 15", "15"), "15", "exact", "{}")
    assert not is_correct(render_response(mode, "15", "14"), "15", "exact", "{}")


def test_the_last_statement_counts() -> None:
    assert final_answer(r"\boxed{1} no, \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert final_answer("The answer is 3. Wait: the answer is: 4.") == "4"


@pytest.mark.parametrize("seed", range(3))
def test_reasoning_gym_scores_its_own_entries_and_partial_credit_is_wrong(seed: int) -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=seed)[0]
    args = json.dumps({"entry": entry})
    assert is_correct(DIRECT + entry["answer"], entry["answer"], "reasoning_gym", args)
    assert not is_correct(
        DIRECT + entry["answer"] + " or so", entry["answer"], "reasoning_gym", args
    )
    assert not is_correct(DIRECT + "7777777", entry["answer"], "reasoning_gym", args)


@pytest.mark.parametrize("task", PUZZLES)
def test_a_scorer_that_raises_means_wrong(task: str) -> None:
    """Also where what it was asked is no number at all, and the next answer has a verdict."""
    entry = {"answer": "7", "question": "q", "metadata": {"source_dataset": task}}
    for stated, right in (("seven", False), ("1e999999999", False), ("\ud800", False), ("7", True)):
        assert (
            is_correct(DIRECT + stated, "7", "reasoning_gym", json.dumps({"entry": entry})) is right
        )


@pytest.mark.parametrize(
    "task",
    [
        "bitwise_arithmetic",
        "polynomial_multiplication",
        "simple_integration",
        "countdown",
        "",
        None,
    ],
)
def test_a_row_runs_no_code(task: str | None, tmp_path: Path) -> None:
    """Many scorers of reasoning-gym evaluate fields of the row, or the response; a row may name no
    other than the known ones.
    """
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    entry = {
        "answer": code,
        "question": "q",
        "metadata": {"source_dataset": task, "problem": code, "integrand": code},
    }
    for args in ({"entry": entry}, {"entry": code}, {}):
        with pytest.raises(
            ConfigError, match="scores chain_sum and leg_counting and no puzzle called"
        ):
            is_correct(DIRECT + code, "1", "reasoning_gym", json.dumps(args))
    assert not mark.exists()


def test_the_known_puzzles_are_those_of_the_family() -> None:
    assert set(TASKS) == set(PUZZLES)


def test_math_compares_values_and_survives_what_would_hang_or_crash_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bimode.grading import math_worker

    monkeypatch.setattr(math_worker, "SECONDS", 1.0)
    assert not is_correct(DIRECT + "$9^{9^{9^{9}}}$", "5", "math", "{}")
    started = time.monotonic()
    assert not is_correct(DIRECT + "(" * 300 + "x" + ")" * 300, "5", "math", "{}")
    assert time.monotonic() - started < math_worker.START_SECONDS
    monkeypatch.setattr(math_worker, "SECONDS", 20.0)
    assert is_correct(DIRECT + r"so it is $\frac{1}{2}$", "0.5", "math", "{}")
    assert is_correct(DIRECT + "$x + 1$", "1+x", "math", "{}")
    assert not is_correct(DIRECT + "0.51", "1/2", "math", "{}")


def test_an_unknown_verifier_is_one_line() -> None:
    with pytest.raises(ConfigError, match="verifier = vibes: known: exact, int"):
        is_correct(DIRECT + "1", "1", "vibes", "{}")
