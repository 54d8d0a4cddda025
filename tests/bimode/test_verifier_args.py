"""Arguments of verifiers: every one that is not in the schema is refused by its name, and runs
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bimode.errors import ConfigError
from bimode.grading.verifier_args import ARGUMENTS, MAX_ARGS, read_arguments
from bimode.grading.verify import VERIFIERS, is_correct

SOUND = {"entry": {"answer": "7", "question": "q", "metadata": {"source_dataset": "chain_sum"}}}


def test_every_verifier_has_a_schema() -> None:
    assert ARGUMENTS.keys() == VERIFIERS.keys()


@pytest.mark.parametrize(
    ("verifier", "args"),
    [
        ("exact", {}),
        ("math", {}),
        ("number", {"rel_tol": 0}),
        ("number", {"abs_tol": 0.5, "rel_tol": 1.0}),
        ("reasoning_gym", SOUND),
    ],
)
def test_sound_arguments_are_read_as_they_are(verifier: str, args: dict[str, Any]) -> None:
    assert read_arguments(verifier, json.dumps(args)) == args


@pytest.mark.parametrize(
    ("verifier", "args", "says"),
    [
        (
            "exact",
            '{"ignore_case": true}',
            "ignore_case: is no argument of exact, which takes none",
        ),
        ("number", '{"tol": 1}', "tol: is no argument of number, which takes abs_tol, rel_tol"),
        ("open", '{"entry": {}}', "entry: is no argument of open"),
        ("number", '{"rel_tol": 1.01}', "rel_tol: must be a number from 0 to 1"),
        ("number", '{"rel_tol": -0.1}', "rel_tol: must be"),
        ("number", '{"rel_tol": true}', "rel_tol: must be"),
        ("number", '{"rel_tol": null}', "rel_tol: must be"),
        ("number", '{"abs_tol": "1e999999999"}', "abs_tol: must be a number"),
        ("number", '{"abs_tol": NaN}', "abs_tol: must be"),
        ("number", '{"abs_tol": 1e999}', "abs_tol: must be"),
        ("number", "9" * 5000, "is not a JSON object"),
        ("number", "[" * 10_000, "is not a JSON object"),
        ("exact", "{}" + " " * MAX_ARGS, "is not a JSON object"),
        ("exact", '{"\\u001b[2J": 1}', r"\x1b[2J: is no argument"),
        ("reasoning_gym", "{}", "no puzzle called NoneType"),
        ("reasoning_gym", '{"entry": []}', "no puzzle called NoneType"),
        (
            "reasoning_gym",
            '{"entry": {"metadata": {"source_dataset": ["chain_sum"]}}}',
            "no puzzle called list",
        ),
    ],
)
def test_what_no_verifier_takes_is_refused_by_name(verifier: str, args: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        is_correct("</think>1", "1", verifier, args)
    assert says in str(refused.value).replace(" = ", ": ")
    assert len(str(refused.value)) < 300 and str(refused.value).isprintable()


@pytest.mark.parametrize("answer", [7, None, ["7"], {"7": 1}, "7" * 2001, True])
def test_a_puzzle_whose_answer_its_scorer_cannot_read_is_refused(answer: Any) -> None:
    entry = SOUND["entry"] | {"answer": answer}
    with pytest.raises(ConfigError, match="its answer must be a text"):
        is_correct("</think>7", "7", "reasoning_gym", json.dumps({"entry": entry}))


@pytest.mark.parametrize(
    "entry",
    [
        {"metadata": {"source_dataset": "bitwise_arithmetic", "problem": "CODE"}},
        {"answer": "CODE", "metadata": {"source_dataset": "polynomial_multiplication"}},
        {"metadata": {"source_dataset": "simple_integration", "integrand": "CODE"}},
        {"metadata": {"source_dataset": "number_sorting"}, "answer": "CODE"},
        {"metadata": {"source_dataset": "chain_sum", "problem": "CODE"}, "answer": "CODE"},
        {"metadata": {"source_dataset": "chain_sum\0"}, "answer": "CODE"},
    ],
)
def test_an_entry_runs_no_code(entry: dict[str, Any], tmp_path: Path) -> None:
    """Neither under a scorer that evaluates, nor hidden in an entry of one that does not."""
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    args = json.dumps({"entry": {"answer": "1"} | entry}).replace(
        "CODE", code.replace("\\", "\\\\")
    )
    for stated in (code, "1"):
        try:
            is_correct(f"</think>{stated}", code, "reasoning_gym", args)
        except ConfigError as refused:
            assert "no puzzle called" in str(refused)
    assert not mark.exists()
