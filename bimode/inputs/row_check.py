"""What a row must be wherever rows are read: in curation, and from a data folder that somebody else
wrote.

It is asked of a million rows, so it is cheap, and no input stops it: types are looked at in Python
against predicates that are made of SCHEMA once. Pictures are checked where they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa

from bimode.errors import ConfigError, RefusedPromptError, UnjudgedError
from bimode.grading.verifier_args import read_arguments
from bimode.grading.verify import INT, MAX_CHARS, OPEN, VERIFIERS, is_correct, is_number
from bimode.inputs.pictures import MAX_DETAIL
from bimode.inputs.text import CONTROL, OURS, ControlTokens
from bimode.modes import THINK_CLOSE
from bimode.plugins import is_plugin
from bimode.records import IMAGE_MARKER
from bimode.storage.dataset import SCHEMA, TRAIN_COLUMNS, Row, question_of

MAX_TEXT = 1_000_000  # characters of any column; what is of use is for `curate.filter` to say
MAX_ID = 1000
MAX_EXACT = 1 << 24  # float32 holds every whole number up to it
NULLABLE = (
    "answer",
    "verifier",
    "verifier_args",
    "pass_rate_non_thinking",
    "pass_rate_thinking",
    "images.bytes",
    "images.path",
)
OPTIONAL = ("trace", "transcription")  # columns of a candidate that SCHEMA has not
TAUGHT = ("answer", *OPTIONAL)  # texts that a model is trained on


def refusal(reason: str, detail: str = "") -> RefusedPromptError:
    """Make the error of a check that a row fails; `detail` becomes a line of ASCII."""
    return RefusedPromptError("data", reason, short(detail))


def short(text: str) -> str:
    """In ASCII, and on one line."""
    return ascii(text[:MAX_DETAIL])[1:-1][:MAX_DETAIL]


def check_columns(row: Row, names: Iterable[str]) -> None:
    """Refuse a row (`bad_schema`) of which one of the columns `names` is missing or has another
    type.
    """
    for name in names:
        if name not in row and name in OPTIONAL:
            continue
        if problem := COLUMNS[name](row[name]) if name in row else "no such column":
            raise refusal("bad_schema", f"{name}: {problem}")
    if not 0 < len(row["id"]) <= MAX_ID:
        raise refusal("bad_schema", f"an empty id, or one of more than {MAX_ID} characters")


def check_text(row: Row, controls: ControlTokens = OURS, *, needs_answer: bool = True) -> None:
    """Refuse a row without a question or an answer, or whose texts hold what a tokenizer obeys."""
    _check_question(row)
    if needs_answer and not (row["answer"] or "").strip():
        raise refusal("empty_answer")
    texts = {"question": question_of(row)} | {name: row.get(name) or "" for name in TAUGHT}
    for name, text in texts.items():
        if token := controls.first_in(text):
            raise refusal("control_token", f"{token} in the {name}")


def check_example(row: Row) -> None:
    """Refuse a training row that cannot be made a sequence; its encoder looks for control
    tokens.
    """
    check_columns(row, TRAIN_COLUMNS)
    _check_question(row)
    if not row["messages"]:
        raise refusal("bad_schema", "messages: no turn")


def _check_question(row: Row) -> None:
    if not row["prompt"] or not question_of(row).strip():
        raise refusal("empty_question")
    markers = sum(turn["content"].count(IMAGE_MARKER) for turn in row["prompt"])
    if markers != len(row["images"]):
        raise refusal("marker_mismatch", f"{markers} markers, {len(row['images'])} images")


def check_answer(
    answer: str,
    verifier: str | None,
    args_text: str | None,
    own_verifiers: Collection[str] = (),
) -> None:
    """Refuse an answer that its verifier cannot read, or does not call right itself.

    `own_verifiers` are the user's, as the recipe names them: a row cannot make a run import code
    that its recipe does not name.
    """
    if verifier is None or not (verifier in VERIFIERS or verifier in own_verifiers):
        known = "a verifier that the recipe does not name: " if is_plugin(verifier) else ""
        raise refusal("unknown_verifier", f"{known}{verifier}")
    try:
        read_arguments(verifier, args_text or "")
    except ConfigError as error:
        raise refusal("unknown_verifier", f"{verifier}: {error}") from None
    if verifier == OPEN:
        return
    assert args_text
    if len(answer) > MAX_CHARS:
        raise refusal("long_answer", f"{len(answer)} characters")
    if not WANTED.get(verifier, _anything)(answer):
        raise refusal("answer_type", f"{verifier}: {answer}")
    try:
        passes = is_correct(f"{THINK_CLOSE}{answer}", answer, verifier, args_text)
    except UnjudgedError as error:
        raise refusal("answer_fails", str(error)) from None
    if not passes:
        raise refusal("answer_fails", answer)


def _anything(answer: str) -> bool:
    return True


WANTED: dict[str, Callable[[str], bool]] = {
    "int": lambda answer: INT.fullmatch(answer.strip()) is not None,
    "number": lambda answer: is_number(answer.strip()),
    "choice": lambda answer: any(map(str.isalnum, answer)),
}


Problem = Callable[[Any], str]  # what is wrong with a value, "" if nothing


def _problem_of(kind: pa.DataType, name: str) -> Problem:
    """The predicate of a column, or of a part of one (`images.bytes`): exactly the Python values
    that Arrow makes `kind` of.
    """
    if pa.types.is_list(kind):
        problem = _problem_of_list(_problem_of(kind.value_type, name))
    elif pa.types.is_struct(kind):
        problem = _problem_of_struct(
            [(field.name, _problem_of(field.type, f"{name}.{field.name}")) for field in kind]
        )
    else:
        problem = SCALARS[kind]
    return (lambda value: "" if value is None else problem(value)) if name in NULLABLE else problem


def _problem_of_list(problem_of_item: Problem) -> Problem:
    def problem(value: Any) -> str:
        if type(value) is not list:
            return _instead_of(value, "a list")
        return next(filter(None, map(problem_of_item, value)), "")

    return problem


def _problem_of_struct(parts: Sequence[tuple[str, Problem]]) -> Problem:
    def problem(value: Any) -> str:
        if type(value) is not dict:
            return _instead_of(value, "a struct")
        return next(
            (
                f"{name}: {found}"
                for name, problem_of in parts
                if (found := problem_of(value.get(name)))
            ),
            "",
        )

    return problem


def _text_problem(value: Any) -> str:
    if not isinstance(value, str):
        return _instead_of(value, "text")
    if len(value) > MAX_TEXT:
        return f"{len(value)} characters"
    if not value.isprintable() and (found := CONTROL.search(value)):
        return f"U+{ord(found[0]):04X} at character {found.start()}"
    return ""


def _float_problem(value: Any) -> str:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return (
        ""
        if is_number and -MAX_EXACT <= value <= MAX_EXACT
        else _instead_of(value, f"a number within {MAX_EXACT}")
    )


def _instead_of(value: object, wanted: str) -> str:
    return (  # without the value, which may be of any size
        f"{type(value).__name__} instead of {wanted}"
    )


SCALARS: dict[pa.DataType, Problem] = {
    pa.string(): _text_problem,
    pa.float32(): _float_problem,
    pa.binary(): lambda value: "" if type(value) is bytes else _instead_of(value, "bytes"),
    pa.bool_(): lambda value: "" if type(value) is bool else _instead_of(value, "true or false"),
    pa.int16(): lambda value: (
        ""
        if type(value) is int and abs(value) < 1 << 15
        else _instead_of(value, "a number of 16 bits")
    ),
}
COLUMNS = {field.name: _problem_of(field.type, field.name) for field in SCHEMA}
COLUMNS |= dict.fromkeys(OPTIONAL, _text_problem)
