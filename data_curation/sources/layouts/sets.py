"""Layouts of known data sets, by the columns that they have on the Hugging Face hub."""

from __future__ import annotations

import json
import re

from bimode.config.curate import SourceConfig
from bimode.records import ParsedRecord
from data_curation.sources.files import ReadImage
from data_curation.sources.layouts.fields import (
    BAD,
    Refused,
    answer_text,
    cell,
    choices,
    images,
    letter_at,
    letter_of,
    optional_text,
    text,
)
from data_curation.sources.readers import Record

CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations, e.g. 48/2 = <<48/2=24>>24
RELAXED = json.dumps({"rel_tol": 0.05})  # ChartQA's relaxed accuracy (Masry et al. 2022, section 5)
MAX_PRECISION = 10  # decimal places


def scienceqa(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """derek-thomas/ScienceQA: image (may be null), question, choices, answer (an index), hint,
    lecture, solution.

    The hint stands before the question; lecture and solution are the reasoning, as in the paper's
    own chains (Lu et al. 2022).
    """
    options = choices(cell(record, "choices"), "choices")
    lecture, solution = optional_text(record, "lecture"), optional_text(record, "solution")
    return ParsedRecord(
        question="\n".join(
            filter(
                None, [optional_text(record, "hint"), text(cell(record, "question"), "question")]
            )
        ),
        answer=letter_at(cell(record, "answer"), options, "answer"),
        images=images(cell(record, "image"), "image", read_image),
        trace="\n\n".join(filter(None, [lecture, solution])) if solution else "",
        choices=options,
    )


def ai2d(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """lmms-lab/ai2d: image, question, options, answer (an index, as text)."""
    options = choices(cell(record, "options"), "options")
    return ParsedRecord(
        question=text(cell(record, "question"), "question"),
        answer=letter_at(cell(record, "answer"), options, "answer"),
        images=images(cell(record, "image"), "image", read_image),
        choices=options,
    )


def chartqa(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """HuggingFaceM4/ChartQA: image, query, label (a list, of one as a rule), human_or_machine.
    Numbers may be 5 % off.
    """
    label = cell(record, "label")
    answers = [
        answer_text(each, "label") for each in (label if isinstance(label, list) else [label])
    ]
    return ParsedRecord(
        question=text(cell(record, "query"), "query"),
        answer=", ".join(answers),
        images=images(cell(record, "image"), "image", read_image),
        number_args=RELAXED,
    )


def gsm8k(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """openai/gsm8k: question, answer (the reasoning, then "#### 42")."""
    reasoning, mark, answer = text(cell(record, "answer"), "answer").rpartition("####")
    if not mark:
        raise Refused(BAD, "answer: no #### before the result")
    return ParsedRecord(
        text(cell(record, "question"), "question"),
        answer.strip(),
        trace=CALCULATOR.sub("", reasoning).strip(),
    )


def mathvista(record: Record, source: SourceConfig, read_image: ReadImage) -> ParsedRecord:
    """AI4Math/MathVista: decoded_image or image, question or query, choices, answer (the text of a
    choice), unit, precision.

    A number is right where it rounds to the answer at the given decimal places, as in the set's own
    evaluation.
    """
    asked = optional_text(record, "question") or text(cell(record, "query"), "query")
    unit = optional_text(record, "unit")
    options = choices(record.get("choices"), "choices")
    answer = answer_text(cell(record, "answer"), "answer")
    picture = "image" if record.get("decoded_image") is None else "decoded_image"
    places = _places(record.get("precision"))
    wanted = (
        f"Give the answer with {places} decimal place{'s'[: places != 1]}."
        if places and not options
        else ""
    )
    return ParsedRecord(
        question="\n".join(filter(None, [f"{asked} (Unit: {unit})" if unit else asked, wanted])),
        answer=letter_of(answer, options, "answer") if options and answer else answer,
        images=images(cell(record, picture), picture, read_image),
        choices=options,
        number_args=json.dumps({"abs_tol": float(f"5e-{places + 1}")}) if places else "{}",
    )


def _places(precision: object) -> int:
    """Decimal places; 0 for null, NaN and whole numbers."""
    if precision is None or precision != precision:
        return 0
    if (
        isinstance(precision, bool)
        or not isinstance(precision, int | float)
        or precision not in range(MAX_PRECISION + 1)
    ):
        raise Refused(BAD, f"precision: not a number of decimal places from 0 to {MAX_PRECISION}")
    return int(precision)
