"""What a row must be before anything is spent on it. Each check answers with a reason code, in the order listed here."""

from __future__ import annotations

import io
import json

import pyarrow as pa
from PIL import Image

from bimode.dataset import SCHEMA, Row, image_digest, question_of
from bimode.records import IMAGE_MARKER
from bimode.verify import VERIFIERS, is_correct

MIN_SIDE, MAX_SIDE = 8, 4096  # pixels
MAX_IMAGE_BYTES = 16 << 20
MAX_QUESTION = 8000  # characters
REQUIRED = ("id", "images", "prompt", "split")

REASONS = {
    "bad_schema": "a column is missing or has another type",
    "empty_question": "no question",
    "long_question": f"a question of more than {MAX_QUESTION} characters",
    "empty_answer": "no answer",
    "marker_mismatch": "not one <image> marker an image",
    "image_broken": "an image that cannot be decoded",
    "image_size": f"an image with a side outside {MIN_SIDE}-{MAX_SIDE} pixels or of more than {MAX_IMAGE_BYTES >> 20} MB",
    "unknown_verifier": "a verifier that does not exist, or arguments that are not a JSON object",
    "answer_fails": "the row's own answer does not pass its verifier",
    "duplicate": "the same question about the same pixels as a row that is kept (its id is in `detail`)",
    "contaminated": "the same question about the same pixels as an evaluation row (its id is in `detail`)",
    "no_trace": "it may have to be taught with reasoning (`by_tag`), and its source writes none down",
    "rollout_failed": "the engine could not answer it (the error is in `detail`)",
    "untagged": "beyond curate.tag_rows and curate.paired_share: no rollouts, so no tag and no format",
}  # every reason that a reject can carry


def check_row(row: Row) -> tuple[str, str]:
    """(reason, detail) of the first check that `row` fails, or two empty strings. Sets `image_sha256` of a sound row."""
    try:
        pa.Table.from_pylist([{name: row[name] for name in SCHEMA.names}], schema=SCHEMA)
    except (KeyError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        return "bad_schema", str(error).splitlines()[0]
    empty = [name for name in REQUIRED if row[name] is None]
    if empty:
        return "bad_schema", f"null in {', '.join(empty)}"
    return _check_text(row) or _check_images(row) or _check_verifier(row) or ("", "")


def _check_text(row: Row) -> tuple[str, str] | None:
    if not row["prompt"] or not question_of(row).strip():
        return "empty_question", ""
    if len(question_of(row)) > MAX_QUESTION:
        return "long_question", f"{len(question_of(row))} characters"
    if not (row["answer"] or "").strip():
        return "empty_answer", ""
    return None


def _check_images(row: Row) -> tuple[str, str] | None:
    markers = sum(turn["content"].count(IMAGE_MARKER) for turn in row["prompt"])
    if markers != len(row["images"]):
        return "marker_mismatch", f"{markers} markers, {len(row['images'])} images"
    for image in row["images"]:
        data = image["bytes"] or b""
        try:
            with Image.open(io.BytesIO(data)) as picture:
                sides = picture.size  # from the header: a bomb is refused before it is decoded
                if len(data) > MAX_IMAGE_BYTES or min(sides) < MIN_SIDE or max(sides) > MAX_SIDE:
                    return "image_size", f"{sides[0]} x {sides[1]} pixels, {len(data)} bytes"
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return "image_broken", str(error).splitlines()[0]
    try:
        row["image_sha256"] = image_digest([image["bytes"] for image in row["images"]])
    except (OSError, ValueError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG chunk
        return "image_broken", str(error).splitlines()[0]
    return None


def _check_verifier(row: Row) -> tuple[str, str] | None:
    try:
        is_object = isinstance(json.loads(row["verifier_args"] or ""), dict)
    except ValueError:
        is_object = False
    if row["verifier"] not in VERIFIERS or not is_object:
        return "unknown_verifier", f"{row['verifier']} {row['verifier_args']}"
    if not is_correct(f"</think>{row['answer']}", row["answer"], row["verifier"], row["verifier_args"]):
        return "answer_fails", row["answer"]
    return None
