"""The last step of every layout: from what a record says to a `Sample`, with the verifier that its
answer asks for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

from bimode.config.curate import SourceConfig
from bimode.errors import UnjudgedError
from bimode.grading.answer_reader import LEAD_IN, read_number
from bimode.grading.verify import OPEN, is_correct
from bimode.inputs.row_check import MAX_TEXT
from bimode.modes import THINK_CLOSE, THINK_OPEN
from bimode.plugins import is_plugin
from bimode.records import IMAGE_MARKER, ParsedRecord, Sample
from data_curation.sources.layouts.fields import BAD, LETTERS, Refused

MAX_DIGITS = 100  # of an integer answer
MAX_WORD = 40  # characters of an answer that counts as one word
YES_NO = ("yes", "no", "true", "false")
LEVELS = ("easy", "mid", "hard")
ENDINGS = re.compile(r"(\.(parquet|jsonl|ndjson|json|arrow|tar|tgz|csv|gz))+$")
COUNTED = re.compile(r"\b(?:how many|number of|(?:which|what) year)\b", re.IGNORECASE)
FORMULA = re.compile(r"\\[A-Za-z]|\^|\d!|\u221a")
PROSE = re.compile(r"[A-Za-z]{2} [A-Za-z]{2}")
PATTERN = re.compile(r"[*\[\]]+")


def source_name(source: SourceConfig) -> str:
    """`source.name`, or the last part of its path without endings and wildcards, e.g. `train` for
    `s3://b/vqa/train-*.parquet`.
    """
    path = source.path.partition("?")[0] if "://" in source.path else os.path.abspath(source.path)
    plain = (
        PATTERN.sub("", ENDINGS.sub("", part)).strip("-_. ") for part in reversed(path.split("/"))
    )
    return source.name or next((part for part in plain if part), "source")


def to_sample(draft: ParsedRecord, source: SourceConfig, ref: str) -> Sample:
    """The sample of `draft`. Raises Refused where a text is empty, markers and images do not agree,
    or a text holds tags.
    """
    question = _without_markers(draft)
    for column, words in (("answer", draft.answer), ("trace", draft.trace)):
        if any(tag in words for tag in (THINK_OPEN, THINK_CLOSE, IMAGE_MARKER)):
            raise Refused(BAD, f"{column}: holds {THINK_OPEN}, {THINK_CLOSE} or {IMAGE_MARKER}")
        if len(words) > MAX_TEXT:
            raise Refused(BAD, f"{column}: {len(words)} characters")
    if not draft.answer and source.split != "decontaminate":
        raise Refused("empty_answer", "")
    verifier, answer, args = _judge(draft, source) if draft.answer else (OPEN, "", "{}")
    name = source_name(source)
    sha256 = [hashlib.sha256(data).hexdigest() for data in draft.images]
    return Sample(
        id=f"{name}-{draft.id}" if draft.id else f"{name}-{_digest([ref, question, sha256])}",
        question=question,
        images=draft.images,
        answer=answer,
        trace=draft.trace,
        transcription="",
        verifier=verifier,
        verifier_args=args,
        guess_rate=_guess_rate(draft),
        task=draft.task or name,
        domain=source.layout,
        level=draft.level if draft.level in LEVELS else "",
        difficulty="{}",
        split=source.split,
        source=name,
        source_license=source.license,
        source_refs=(ref,),
    )


def _without_markers(draft: ParsedRecord) -> str:
    """The question with its choices, e.g. "Which one melts?\\nA. wood\\nB. ice"."""
    if not draft.question.replace(IMAGE_MARKER, "").strip():
        raise Refused("empty_question", "")
    full = "\n".join(
        [draft.question, *(f"{LETTERS[at]}. {choice}" for at, choice in enumerate(draft.choices))]
    )
    if len(full) > MAX_TEXT:
        raise Refused(BAD, f"question: {len(full)} characters")
    markers = full.count(IMAGE_MARKER)
    plain = full.replace(IMAGE_MARKER, "").strip()
    if (
        markers not in (0, len(draft.images)) or IMAGE_MARKER in plain
    ):  # one could be left of "<ima<image>ge>"
        raise Refused("marker_mismatch", f"{markers} markers, {len(draft.images)} images")
    return plain


def _judge(draft: ParsedRecord, source: SourceConfig) -> tuple[str, str, str]:
    """(verifier, answer in the form it compares with, its arguments)."""
    number = read_number(draft.answer) if len(draft.answer) <= MAX_DIGITS else None
    is_int = number is not None and number.is_integer and not LEAD_IN.search(draft.answer)
    tolerance = json.loads(draft.number_args)
    if source.rel_tol is not None:
        tolerance = {"rel_tol": source.rel_tol}
    if is_int and COUNTED.search(draft.question):
        tolerance = {}
    verifier = str(source.verifier)
    if verifier == "auto":
        verifier = _verifier_for(draft, is_int and not tolerance)
    if verifier == "int" and not is_int:
        raise Refused(BAD, "answer: not an integer")
    if is_plugin(verifier):
        return verifier, draft.answer, json.dumps(source.verifier_args)
    answer = str(number.value) if number is not None and verifier == "int" else draft.answer
    return verifier, answer, json.dumps(tolerance) if verifier == "number" else "{}"


def _verifier_for(draft: ParsedRecord, is_exact_integer: bool) -> str:
    """The strictest verifier that the answer itself passes; `open` (a judge's business) for free
    text.
    """
    answer = draft.answer
    if draft.choices:
        return "choice"
    if is_exact_integer:
        return "int"
    if _passes(answer, "number"):
        return "number"
    if FORMULA.search(answer):  # words would not be compared by their value
        return "math" if not PROSE.search(answer) and _passes(answer, "math") else OPEN
    one_word = (
        len(answer.split()) == 1 and len(answer) <= MAX_WORD and any(map(str.isalnum, answer))
    )
    return "choice" if one_word and _passes(answer, "choice") else OPEN


def _passes(answer: str, verifier: str) -> bool:
    try:
        return is_correct(f"{THINK_CLOSE}{answer}", answer, verifier, "{}")
    except UnjudgedError as error:
        raise Refused("answer_fails", str(error)) from None


def _guess_rate(draft: ParsedRecord) -> float:
    if draft.choices:
        return 1 / len(draft.choices)
    return 0.5 if draft.answer.casefold().strip(".") in YES_NO else 0.0


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()
