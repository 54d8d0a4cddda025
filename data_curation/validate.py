"""What a row must be before anything is spent on it. The first check that fails answers with a reason code.

It runs once on each of a million rows that somebody else wrote, so it is cheap, and no input stops it: types are looked at in
Python against predicates that are made of SCHEMA once, and an image is decoded once, for its bounds, its digest and its
perceptual hash. The errors that are caught are those which mutated files have been seen to raise (tests/data_curation).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from bimode.control_tokens import OURS, ControlTokens
from bimode.dataset import SCHEMA, SPLITS, Row, picture_digest, question_of
from bimode.errors import ConfigError, RowNote
from bimode.modes import THINK_CLOSE
from bimode.picture_parts import MAX_SCANS
from bimode.pictures import (
    MAX_BYTES,
    MAX_DETAIL,
    MAX_PIXELS,
    MAX_SIDE,
    MIN_SIDE,
    PictureError,
    open_picture,
)
from bimode.records import IMAGE_MARKER
from bimode.verify import INT, MAX_CHARS, OPEN, VERIFIERS, is_correct, is_number, puzzle_of
from data_curation.repeats.fingerprints import perceptual_hash, thumbnails

MAX_TEXT = 1_000_000  # characters of any column; what is of use is for `curate.filter` to say
MAX_EXACT = 1 << 24  # float32 holds every whole number up to it
NULLABLE = ("answer", "verifier", "verifier_args", "pass_rate_direct", "pass_rate_think", "images.bytes", "images.path")
OPTIONAL = ("trace", "transcription")  # columns of a candidate that SCHEMA has not
TAUGHT = ("answer", *OPTIONAL)  # texts that a model is trained on
KNOWN_SPLITS = (*SPLITS, "check")
BAD_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # a form feed is what is left of a "\frac"

REASONS = {
    "unreadable_file": "a file that cannot be read as what it should be",
    "bad_record": "a record that cannot become a question: a column is missing, or holds something else",
    "bad_schema": "a column is missing, is out of range, has another type, or holds NUL, control characters or lone surrogates",
    "empty_question": "no question",
    "empty_answer": "no answer",
    "marker_mismatch": "not one <image> marker an image",
    "control_token": "a text in which model.base's tokenizer would read a control token, an end of "
    "turn for one (its name is in `detail`)",
    "image_missing": "an image without bytes, or a path that leads to no file",
    "image_type": "not one still picture as PNG, JPEG, WEBP, GIF, BMP or TIFF, whatever its name "
    "says",
    "image_size": f"an image with a side outside {MIN_SIDE}-{MAX_SIDE} pixels, of more than "
    f"{MAX_BYTES >> 20} MB or {MAX_SCANS} scans, in more parts than a sound file has "
    f"(`detail`), or images of more than {MAX_PIXELS >> 20} megapixels together",
    "image_truncated": "an image whose end is missing",
    "image_broken": "an image that cannot be decoded",
    "unknown_verifier": "a verifier that does not exist, or arguments that it cannot use",
    "answer_type": "an answer that is not of the type its verifier compares",
    "answer_fails": "the row's own answer does not pass its verifier",
    "too_many_images": "more images than an engine takes in one prompt (`detail`: how many, and the limit)",
    "long_prompt": "more tokens, its images expanded, than leave one for a response within model.max_model_len "
    "(`detail`: how many, and the limit)",
    "long_question": "a question longer than curate.filter.max_question",
    "long_answer": f"an answer longer than curate.filter.max_answer, or than the {MAX_CHARS} characters that a verifier reads",
    "long_trace": "a trace longer than curate.filter.max_trace",
    "empty_trace": "a trace of white space or stock words, or one that could stand under any question",
    "repetition": "a question or a trace that repeats itself beyond curate.filter.max_repetition",
    "forbidden_phrase": "a trace with one of curate.traces.forbidden",
    "looping_trace": "a trace that repeats itself beyond curate.traces.max_repetition",
    "inconsistent_trace": "a trace that comes to another answer than the row's",
    "wrong_step": "a trace with a step of arithmetic that is wrong",
    "template_trace": "one and the same trace under different answers",
    "wrong_language": "a question in none of curate.filter.languages",
    "duplicate_id": "the id of a row before it (its source is in `detail`)",
    "duplicate": "the same question about the same pixels as a row that is kept (its id is in `detail`)",
    "other_answer": "the same question about the same pixels as a row that is kept (its id is in `detail`), with another "
    "answer: one of the two is wrong, and the first is kept",
    "near_duplicate": "nearly the same as a row that is kept (its id is in `detail`)",
    "other_fold": "a train question of another fold than curate.fold",
    "trained_on": "every model that tags (model.base, or those of curate.rollouts.models) was trained on it, so that none may",
    "contaminated": "it repeats an evaluation row (its id is in `detail`); `contamination.method` says how that was found",
    "no_trace": "its tag asks for reasoning, and there is none to show",
    "needs_judge": "only a judge model can mark its answers, and there is none",
    "judge_failed": "the judge could not be asked (the error is in `detail`)",
    "judge_unclear": "the judge gave no verdict",
    "rollout_failed": "the engine could not answer it (the error is in `detail`)",
    "untagged": "beyond curate.tag_rows and curate.paired_share: no rollouts, so no tag and no format",
    "mix": "beyond what curate.mix takes",
}  # every reason that a reject can carry


@dataclass(frozen=True, slots=True)
class Checked:
    """The first check that a row fails, or two empty strings; and what the images of a row are compared by, if it is sound.

    E.g. ``Checked("image_type", "image 0: a GIF of several frames")`` or
    ``Checked("", "", "9f..", "c3..", b"..")``.
    """

    reason: str
    detail: str
    image_sha256: str = ""  # `bimode.dataset.image_digest`; known too where only the answer is refused
    phash: str = ""  # `fingerprints.perceptual_hash`
    thumbnails: bytes = b""  # `fingerprints.thumbnails`


class Refused(Exception):
    """A check that fails: (reason, detail)."""


def check_rows(
    rows: Sequence[Row], *, hashed: bool = True, controls: ControlTokens = OURS
) -> list[Checked]:
    """What each of `rows` comes to; they stay as they are. Raises RuntimeError if the maths verifier does not start.

    `controls`: of the tokenizer that will read the rows.
    Unless `hashed`, nothing is made by which near pictures are found, which takes longer than to decode a small picture.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of images that are refused or sound all the same
        for row in rows:
            name = row.get("id")
            with RowNote(_short(name) if isinstance(name, str) else "without an id"):
                found.append(_checked(row, hashed, controls))
    return found


def check_row(row: Row) -> tuple[str, str]:
    """(reason, detail) of one row. Sets `image_sha256` and `image_phash` of a sound one."""
    [checked] = check_rows([row])
    if not checked.reason:
        row |= {"image_sha256": checked.image_sha256, "image_phash": checked.phash}
    return checked.reason, checked.detail


def _checked(row: Row, hashed: bool, controls: ControlTokens) -> Checked:
    digest = ""
    try:
        _check_columns(row)
        _check_text(row, controls)
        images = _decode(row["images"])
        digest = picture_digest(images)
        if row["split"] != "check":  # only what it asks is compared, by whatever it is marked
            _check_answer(row["answer"], row["verifier"], row["verifier_args"])
    except Refused as refused:
        reason, detail = refused.args
        return Checked(reason, detail, digest)
    pictures = images if hashed else []
    return Checked("", "", digest, perceptual_hash(pictures), thumbnails(pictures))


def _check_columns(row: Row) -> None:
    for name, problem_of in COLUMNS:
        if name not in row and name in OPTIONAL:
            continue
        if problem := problem_of(row[name]) if name in row else "no such column":
            raise Refused("bad_schema", f"{name}: {problem}")
    if not row["id"] or row["split"] not in KNOWN_SPLITS or not 0 <= row["guess_rate"] < 1:
        shown = _short(f"id {row['id']}, split {row['split']}, guess_rate {row['guess_rate']}")
        raise Refused("bad_schema", f"an empty id, an unknown split or a rate outside [0, 1): {shown}")


Problem = Callable[[Any], str]  # what is wrong with a value, "" if nothing


def _problem_of(kind: pa.DataType, name: str) -> Problem:
    """The predicate of a column, or of a part of one (`images.bytes`): exactly the Python values that Arrow makes `kind` of."""
    if pa.types.is_list(kind):
        problem = _problem_of_list(_problem_of(kind.value_type, name))
    elif pa.types.is_struct(kind):
        problem = _problem_of_struct([(field.name, _problem_of(field.type, f"{name}.{field.name}")) for field in kind])
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
        return next((f"{name}: {found}" for name, problem_of in parts if (found := problem_of(value.get(name)))), "")

    return problem


def _text_problem(value: Any) -> str:
    if not isinstance(value, str):
        return _instead_of(value, "text")
    if len(value) > MAX_TEXT:
        return f"{len(value)} characters"
    if not value.isprintable() and (found := BAD_CHARACTER.search(value)):
        return f"U+{ord(found[0]):04X} at character {found.start()}"
    return ""


def _float_problem(value: Any) -> str:
    is_number = isinstance(value, float | int) and not isinstance(value, bool)
    return "" if is_number and -MAX_EXACT <= value <= MAX_EXACT else _instead_of(value, f"a number within {MAX_EXACT}")


def _instead_of(value: object, wanted: str) -> str:
    return f"{type(value).__name__} instead of {wanted}"  # without the value, which may be of any size


def _short(text: str) -> str:
    """In ASCII, and on one line."""
    return ascii(text[:MAX_DETAIL])[1:-1][:MAX_DETAIL]


SCALARS: dict[pa.DataType, Problem] = {
    pa.string(): _text_problem,
    pa.float32(): _float_problem,
    pa.binary(): lambda value: "" if type(value) is bytes else _instead_of(value, "bytes"),
    pa.bool_(): lambda value: "" if type(value) is bool else _instead_of(value, "true or false"),
    pa.int16(): lambda value: "" if type(value) is int and abs(value) < 1 << 15 else _instead_of(value, "a number of 16 bits"),
}
COLUMNS = [(field.name, _problem_of(field.type, field.name)) for field in SCHEMA] + [(name, _text_problem) for name in OPTIONAL]


def _check_text(row: Row, controls: ControlTokens) -> None:
    question = question_of(row) if row["prompt"] else ""
    if not question.strip():
        raise Refused("empty_question", "")
    if not (row["answer"] or "").strip() and row["split"] != "check":
        raise Refused("empty_answer", "")
    markers = sum(turn["content"].count(IMAGE_MARKER) for turn in row["prompt"])
    if markers != len(row["images"]):
        raise Refused("marker_mismatch", f"{markers} markers, {len(row['images'])} images")
    texts = {"question": question} | {name: row.get(name) or "" for name in TAUGHT}
    for name, text in texts.items():
        if token := controls.first_in(text):
            raise Refused("control_token", _short(f"{token} in the {name}"))


def _check_answer(answer: str, verifier: str | None, args_text: str | None) -> None:
    args = _arguments(verifier, args_text or "")
    if args is None:
        raise Refused("unknown_verifier", _short(f"{verifier} {args_text}"))
    if verifier == OPEN:
        return
    assert verifier and args_text
    if len(answer) > MAX_CHARS:
        raise Refused("long_answer", f"{len(answer)} characters")
    if not WANTED.get(verifier, _anything)(answer):
        raise Refused("answer_type", f"{verifier}: {_short(answer)}")
    if not is_correct(f"{THINK_CLOSE}{answer}", answer, verifier, args_text):
        raise Refused("answer_fails", _short(answer))


def _arguments(verifier: str | None, text: str) -> Mapping[str, Any] | None:
    """The verifier's arguments, or None if it cannot use them: `is_correct` relies on what is looked at here."""
    try:
        args = json.loads(text)
    except (ValueError, RecursionError):  # a number of 5000 digits, a list in a list in a list ...
        return None
    if verifier not in VERIFIERS or not isinstance(args, dict):
        return None
    if verifier == "number":
        bounds = [args.get(name, 0) for name in ("abs_tol", "rel_tol")]
        return args if all(type(bound) in (int, float) and 0 <= bound < math.inf for bound in bounds) else None
    if verifier == "reasoning_gym":
        try:
            puzzle_of(args)
        except ConfigError:
            return None
    return args


def _anything(answer: str) -> bool:
    return True


WANTED: dict[str, Callable[[str], bool]] = {
    "int": lambda answer: INT.fullmatch(answer.strip()) is not None,
    "number": lambda answer: is_number(answer.strip()),
    "choice": lambda answer: any(map(str.isalnum, answer)),
}


def _decode(images: Sequence[Row]) -> list[Image.Image]:
    """The pictures of a row, each decoded once; together they have a bound."""
    decoded: list[Image.Image] = []
    pixels = 0
    for at, image in enumerate(images):
        try:
            picture = open_picture(image.get("bytes") or b"", MAX_PIXELS - pixels)
        except PictureError as error:
            raise Refused(error.reason, f"image {at}: {error.detail}") from None
        pixels += picture.width * picture.height
        decoded.append(picture)
    return decoded
