"""Layouts under fire: whatever a record holds, it gives a sound sample or a refusal, and never an
exception.
"""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bimode.config.curate import LAYOUTS, Layout, SourceConfig
from bimode.grading.verify import is_correct
from bimode.records import IMAGE_MARKER
from bimode.storage.dataset import SCHEMA, question_of, sample_row
from data_curation.checks.validate import REASONS
from data_curation.sources.layouts import read_record
from data_curation.sources.refusal import Refusal

OURS = {
    name: name
    for name in ("question", "answer", "images", "trace", "choices", "id", "task", "level")
}


WORDS = [
    "",
    "1",
    "A",
    "yes",
    "#### 4",
    "<image>",
    "<think>",
    "</think>",
    "a</think>b",
    "\ud800",
    "data:;base64,AA==",
    "user",
    "assistant",
    "human",
    "gpt",
    "text",
    "image",
    "image_url",
    "hard",
    "-1,234",
    "1/0",
    "nan",
]
NUMBERS = st.booleans() | st.integers() | st.integers(10**4299, 10**4301) | st.floats()
TEXTUAL = st.sampled_from(WORDS) | st.text(st.characters(codec=None), max_size=8)
SCALARS = st.none() | NUMBERS | TEXTUAL | st.binary(max_size=4)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "type",
        "text",
        "image",
        "image_url",
        "url",
        "bytes",
        "path",
        "x",
    ]
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def turns(role: str, content: str, one: str, two: str) -> st.SearchStrategy[list[object]]:
    kinds = st.sampled_from(["text", "image", "image_url"]) | JUNK
    part = st.fixed_dictionaries({"type": kinds}, optional={"text": JUNK, "image_url": JUNK})
    said = SCALARS | st.lists(part, max_size=3) | JUNK
    return st.lists(
        st.fixed_dictionaries({role: st.sampled_from([one, two, "system"]), content: said}) | JUNK,
        max_size=4,
    )


COLUMNS = [
    "question",
    "answer",
    "images",
    "image",
    "trace",
    "choices",
    "id",
    "task",
    "level",
    "hint",
    "lecture",
    "solution",
    "options",
    "query",
    "label",
    "decoded_image",
    "unit",
    "precision",
]
LIKELY = {
    "question": st.just("why?"),
    "query": st.just("<image>why?"),
    "answer": SCALARS,
    "choices": st.lists(SCALARS, max_size=4),
    "options": st.just(["a", "b"]),
    "label": st.lists(SCALARS, max_size=2),
    "precision": st.integers(-2, 12) | st.floats(),
    "messages": turns("role", "content", "user", "assistant"),
    "conversations": turns("from", "value", "human", "gpt"),
}
RECORDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(COLUMNS, JUNK) | {name: each | JUNK for name, each in LIKELY.items()}
)
SOUND = {
    "question": "why?",
    "query": "why?",
    "answer": "1",
    "choices": ["a", "b"],
    "options": ["a", "b"],
    "label": ["1"],
    "image": None,
    "images": None,
    "messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "x"}],
    "conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "x"}],
}


def awkward_files(path: str) -> bytes:
    """Every third path is an image; others fail in both ways that `files.image_reader` may fail."""
    if len(path) % 3 == 1:
        raise FileNotFoundError(path)
    if len(path) % 3 == 2:
        raise ValueError(path)
    return b"an image"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_a_record_holds_it_gives_a_sound_sample_or_a_refusal(layout: Layout) -> None:
    source = SourceConfig(
        path="data/set.parquet", layout=layout, columns=OURS if layout == "columns" else {}
    )
    reasons: set[str] = set()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(RECORDS | JUNK)
    @example(SOUND | ({"answer": "#### 1"} if layout == "gsm8k" else {}))
    def holds(record: object) -> None:
        found = read_record(record, source, "a#0", awkward_files)  # type: ignore[arg-type]
        if isinstance(found, Refusal):
            reasons.add(found.reason)
            assert found.reason in (
                "bad_record",
                "image_missing",
                "marker_mismatch",
                "empty_question",
                "empty_answer",
            )
            assert (
                found.detail.encode() is not None
                and "\n" not in found.detail
                and len(found.detail) < 400
            )
            return
        reasons.add("")
        row = sample_row(found, found.split)
        assert pa.Table.from_pylist([row], schema=SCHEMA).num_rows == 1
        assert question_of(row) == found.question.strip() and IMAGE_MARKER not in found.question
        assert found.answer and 0.0 <= found.guess_rate <= 0.5 and math.isfinite(found.guess_rate)
        assert isinstance(json.loads(found.verifier_args), dict)
        if found.verifier != "open":
            assert is_correct(
                f"</think>{found.answer}", found.answer, found.verifier, found.verifier_args
            )

    holds()
    assert {"", "bad_record"} <= reasons <= {"", *REASONS}, "the examples reach both outcomes"
