"""What a row must be before anything is spent on it. The first check that fails answers with a
reason code.

The checks of texts and answers are those of every reader (`bimode.inputs.row_check`). An image is
decoded once, for its bounds, its digest and its perceptual hash.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from bimode.errors import RefusedPromptError, RowNote
from bimode.grading.verify import MAX_CHARS
from bimode.inputs.pictures import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SIDE,
    MIN_SIDE,
    PictureError,
    open_picture,
)
from bimode.inputs.row_check import COLUMNS, check_answer, check_columns, check_text, refusal, short
from bimode.inputs.text import OURS, ControlTokens
from bimode.storage.dataset import SPLITS, Row, picture_digest
from data_curation.dedup.fingerprints import perceptual_hash, thumbnails

KNOWN_SPLITS = (*SPLITS, "decontaminate")

REASONS = {
    "unreadable_file": "a file that cannot be read as what it should be",
    "bad_record": (
        "a record that cannot become a question: a column is missing, or holds something else"
    ),
    "bad_schema": (
        "a column is missing, is out of range, has another type, or holds control "
        "characters, overrides of the direction of text or lone surrogates"
    ),
    "empty_question": "no question",
    "empty_answer": "no answer",
    "marker_mismatch": "not one <image> marker an image",
    "control_token": (
        "a text in which model.base's tokenizer would read a control token, an end of "
        "turn for one (its name is in `detail`)"
    ),
    "image_missing": "an image without bytes, or a path that leads to no file",
    "image_type": (
        "not one still picture as PNG, JPEG, WEBP, GIF, BMP or TIFF, whatever its name says"
    ),
    "image_size": (
        f"an image with a side outside {MIN_SIDE}-{MAX_SIDE} pixels, of more than "
        f"{MAX_BYTES >> 20} MB or {MAX_SCANS} scans, in more parts than a sound file has "
        f"(`detail`), or images of more than {MAX_PIXELS >> 20} megapixels together"
    ),
    "image_truncated": "an image whose end is missing",
    "image_broken": "an image that cannot be decoded",
    "unknown_verifier": "a verifier that does not exist, or arguments that it cannot use",
    "answer_type": "an answer that is not of the type its verifier compares",
    "answer_fails": "the row's own answer does not pass its verifier",
    "too_many_images": (
        "more images than an engine takes in one prompt (`detail`: how many, and the limit)"
    ),
    "long_prompt": (
        "more tokens, its images expanded, than leave one for a response within model.max_model_len"
        " (`detail`: how many, and the limit)"
    ),
    "long_question": "a question longer than curate.filter.max_question",
    "long_answer": (
        f"an answer longer than curate.filter.max_answer, or than the {MAX_CHARS} characters that a"
        " verifier reads"
    ),
    "long_trace": "a trace longer than curate.filter.max_trace",
    "empty_trace": (
        "a trace of white space or stock words, or one that could stand under any question"
    ),
    "repetition": "a question or a trace that repeats itself beyond curate.filter.max_repetition",
    "forbidden_phrase": "a trace with one of curate.traces.forbidden",
    "looping_trace": "a trace that repeats itself beyond curate.traces.max_repetition",
    "inconsistent_trace": "a trace that comes to another answer than the row's",
    "wrong_step": "a trace with a step of arithmetic that is wrong",
    "template_trace": "one and the same trace under different answers",
    "wrong_language": "a question in none of curate.filter.languages",
    "duplicate_id": "the id of a row before it (its source is in `detail`)",
    "duplicate": (
        "the same question about the same pixels as a row that is kept (its id is in `detail`)"
    ),
    "other_answer": (
        "the same question about the same pixels as a row that is kept (its id is in `detail`),"
        " with another answer: one of the two is wrong, and the first is kept"
    ),
    "near_duplicate": "nearly the same as a row that is kept (its id is in `detail`)",
    "other_fold": "a train question of another fold than curate.cross_fit_fold",
    "trained_on": (
        "every model that tags (model.base, or those of curate.rollouts.models) was trained on it,"
        " so that none may"
    ),
    "contaminated": (
        "it repeats an evaluation row (its id is in `detail`); `contamination.method` says how that"
        " was found"
    ),
    "no_trace": "its tag asks for reasoning, and there is none to show",
    "needs_judge": "only a judge model can mark its answers, and there is none",
    "judge_failed": "the judge could not be asked (the error is in `detail`)",
    "judge_unclear": "the judge gave no verdict",
    "rollout_failed": "the engine could not answer it (the error is in `detail`)",
    "untagged": (
        "beyond curate.tag_rows and curate.paired_share: no rollouts, so no tag and no format"
    ),
    "mix": "beyond what curate.mix takes",
}  # every reason that a reject can carry


@dataclass(frozen=True, slots=True)
class Checked:
    """The first check that a row fails, or two empty strings; and what the images of a row are
    compared by, if it is sound.

    E.g. ``Checked("image_type", "image 0: a GIF of several frames")`` or
    ``Checked("", "", "9f..", "c3..", b"..")``.
    """

    reason: str
    detail: str
    # `bimode.storage.dataset.image_digest`; known too if only the answer is refused
    image_sha256: str = ""
    phash: str = ""  # `fingerprints.perceptual_hash`
    thumbnails: bytes = b""  # `fingerprints.thumbnails`


def check_rows(
    rows: Sequence[Row],
    *,
    hashed: bool = True,
    controls: ControlTokens = OURS,
    own_verifiers: Collection[str] = (),
) -> list[Checked]:
    """What each of `rows` comes to; they stay as they are. Raises RuntimeError if the math
    verifier does not start.

    `controls`: of the tokenizer that will read the rows. Unless `hashed`, nothing is made by which
    near pictures are found, which takes longer than to decode a small picture.
    """
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images that are refused or sound anyway
        for row in rows:
            name = row.get("id")
            with RowNote(short(name) if isinstance(name, str) else "without an id"):
                found.append(_checked(row, hashed, controls, own_verifiers))
    return found


def check_row(row: Row) -> tuple[str, str]:
    """(reason, detail) of one row. Sets `image_sha256` and `image_phash` of a sound one."""
    [checked] = check_rows([row])
    if not checked.reason:
        row |= {"image_sha256": checked.image_sha256, "image_phash": checked.phash}
    return checked.reason, checked.detail


def _checked(
    row: Row, hashed: bool, controls: ControlTokens, own_verifiers: Collection[str]
) -> Checked:
    digest = ""
    try:
        check_columns(row, COLUMNS)
        _check_bounds(row)
        is_asked = row["split"] != "decontaminate"  # of others only the question is compared
        check_text(row, controls, needs_answer=is_asked)
        images = _decode(row["images"])
        digest = picture_digest(images)
        if is_asked:
            check_answer(row["answer"], row["verifier"], row["verifier_args"], own_verifiers)
    except RefusedPromptError as refused:
        return Checked(refused.reason, refused.detail, digest)
    pictures = images if hashed else []
    return Checked("", "", digest, perceptual_hash(pictures), thumbnails(pictures))


def _check_bounds(row: Row) -> None:
    if row["split"] not in KNOWN_SPLITS or not 0 <= row["guess_rate"] < 1:
        found = f"split {row['split']}, guess_rate {row['guess_rate']}"
        raise refusal("bad_schema", f"an unknown split or a rate outside [0, 1): {found}")


def _decode(images: Sequence[Row]) -> list[Image.Image]:
    """The pictures of a row, each decoded once; together they have a bound."""
    decoded: list[Image.Image] = []
    pixels = 0
    for at, image in enumerate(images):
        try:
            picture = open_picture(image.get("bytes") or b"", MAX_PIXELS - pixels)
        except PictureError as error:
            raise RefusedPromptError("data", error.reason, f"image {at}: {error.detail}") from None
        pixels += picture.width * picture.height
        decoded.append(picture)
    return decoded
