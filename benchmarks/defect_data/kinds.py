"""Which defects are planted, how many in 20,000 rows, and which stage has to find them for which
reason.

A stage belongs to a class: what it removes is right where the row was planted for any stage of that
class, as an exact copy that the search for near-duplicates finds was still a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal[
    "any", "train", "jsonl", "int"
]  # int: sources whose verifier is set, so that an answer can be of the wrong type
FULL = 20_000


@dataclass(frozen=True, slots=True)
class Stage:
    """`reasons` are those of rejects (`data_curation.checks.validate.REASONS`); `goal` holds recall
    and precision to 0.99.
    """

    name: str
    group: str
    reasons: tuple[str, ...]
    goal: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """`count` rows in `FULL`; `stage` "" is a row that must stay, "unscored" one of which either is
    right.
    """

    name: str
    stage: str
    count: int
    where: Where = "any"


STAGES = (
    Stage(
        "validation",
        "validation",
        (
            "bad_record",
            "bad_schema",
            "unreadable_file",
            "empty_question",
            "long_question",
            "empty_answer",
            "long_answer",
            "answer_type",
            "answer_fails",
            "unknown_verifier",
            "marker_mismatch",
            "image_missing",
            "image_broken",
            "image_truncated",
            "image_type",
            "image_size",
        ),
        goal=True,
    ),
    Stage("dedup, exact", "dedup", ("duplicate", "duplicate_id", "other_answer"), goal=True),
    Stage("dedup, near image", "dedup", ("near_duplicate",), goal=True),
    Stage("dedup, text", "dedup", (), goal=True),  # shares a reason with the line above
    Stage("decontamination, exact", "decontamination", ("contaminated",), goal=True),
    Stage("decontamination, image", "decontamination", (), goal=True),
    Stage("decontamination, text", "decontamination", (), goal=True),
    Stage("language", "language", ("wrong_language",)),
    Stage("looping traces", "traces", ("repetition", "looping_trace", "long_trace")),
    Stage(
        "empty traces", "traces", ("empty_trace", "no_trace", "forbidden_phrase", "template_trace")
    ),
    Stage("wrong steps", "traces", ("wrong_step",)),
    Stage("wrong answers", "traces", ("inconsistent_trace", "wrong_trace", "trace_failed")),
    Stage("other reasons", "other", ()),
)

KINDS = (
    Kind("truncated_image", "validation", 120),
    Kind("random_image", "validation", 60),
    Kind("no_picture", "validation", 60),
    Kind("empty_image", "validation", 40),
    Kind("lost_image", "validation", 30, "jsonl"),
    Kind("bomb_image", "validation", 45),
    Kind("odd_size_image", "validation", 60),
    Kind("null_field", "validation", 90),
    Kind("missing_field", "validation", 80, "jsonl"),
    Kind("field_type", "validation", 60, "jsonl"),
    Kind("broken_line", "validation", 40, "jsonl"),
    Kind("blank_question", "validation", 40),
    Kind("long_question", "validation", 20),
    Kind("long_answer", "validation", 20),
    Kind("answer_type", "validation", 150, "int"),
    Kind("copy_same_file", "dedup, exact", 150),
    Kind("copy_other_file", "dedup, exact", 150),
    Kind("copy_png", "dedup, exact", 150),
    Kind("copy_jpeg", "dedup, near image", 200),
    Kind("copy_rescaled", "dedup, near image", 200),
    Kind("copy_brighter", "dedup, near image", 200),
    Kind("copy_edited_text", "dedup, text", 250),
    Kind("leak_exact", "decontamination, exact", 150),
    Kind("leak_png", "decontamination, exact", 75),
    Kind("leak_image", "decontamination, image", 200),
    Kind("leak_reworded", "decontamination, image", 250),
    Kind("leak_edited_text", "decontamination, text", 150),
    Kind("leak_other_numbers", "unscored", 60),
    Kind("foreign", "language", 240),
    Kind("looping_trace", "looping traces", 120, "train"),
    Kind("empty_trace", "empty traces", 100, "train"),
    Kind("stock_trace", "empty traces", 100, "train"),
    Kind("wrong_step", "wrong steps", 120, "train"),
    Kind("wrong_steps_and_answer", "wrong steps", 60, "train"),
    Kind("wrong_answer", "wrong answers", 150, "train"),
    Kind("wrong_conclusion", "wrong answers", 80, "train"),
    Kind("wrong_reading", "wrong answers", 80, "train"),  # only who sees the picture can tell
    Kind("element_changed", "", 200),
    Kind("elements_swapped", "", 150),
    Kind("other_handwriting", "", 100),
    Kind("other_question", "", 150),
    Kind("other_numbers", "", 150),
    Kind("one_other_number", "", 100),
    Kind("eval_element_changed", "", 80),
    Kind("mislabeled_mode", "", 200),
)
SOUND = Kind("sound", "", 0)
COPIES = tuple(
    kind.name for kind in KINDS if kind.stage.startswith("dedup")
)  # of each group of the same one stays


def stage_named(name: str) -> Stage:
    """The stage called `name`."""
    return next(stage for stage in STAGES if stage.name == name)


def group_of(stage: str) -> str:
    """The class of a stage; "" and "unscored" are their own."""
    return next((each.group for each in STAGES if each.name == stage), stage)


def counts(rows: int) -> dict[str, int]:
    """Rows of each kind among `rows`, one at least, and the rest sound. Raises ValueError where
    none would be sound.
    """
    planned = {kind.name: max(1, kind.count * rows // FULL) for kind in KINDS}
    if (sound := rows - sum(planned.values())) < 2 * sum(planned.values()):
        raise ValueError(
            f"{rows} rows are too few; {4 * len(KINDS)} and more leave enough that are sound"
        )
    return planned | {SOUND.name: sound}
