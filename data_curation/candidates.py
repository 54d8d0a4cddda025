"""A candidate: a row of the data set on its way, with what only curation needs beside it.

Nothing is dropped while the pipeline runs: a row that fails gets a `reason`, and publishing sends
it to the rejects.
"""

from __future__ import annotations

import pyarrow as pa

from bimode.storage.dataset import SCHEMA

CANDIDATE_SCHEMA = pa.schema(
    [
        *SCHEMA,
        ("trace", pa.string()),  # the generator's own reasoning
        ("transcription", pa.string()),
        ("question", pa.string()),  # of the last turn, without image markers
        (
            "content_key",
            pa.string(),
        ),  # of canonical question and pixels (`fingerprints.content_key`)
        ("question_key", pa.string()),  # of the canonical question alone
        ("content", pa.string()),  # of all that an attempt at the row and its verdict depend on
        (
            "answer_key",
            pa.string(),
        ),  # the canonical answer: NFKC, case folded, white space collapsed
        ("image_thumbs", pa.binary()),  # `fingerprints.thumbnails`
        (
            "tag_rule",
            pa.string(),
            # which line of the rule decided (`Tag.reason`); "" where untagged
        ),
        ("tag_low", pa.float32()),  # interval of the guess-corrected direct rate
        ("tag_high", pa.float32()),
        ("reason", pa.string()),  # "" while the row is in; else why it is out
        ("detail", pa.string()),  # e.g. the id of the row that it repeats
    ]
)
REJECT_SCHEMA = pa.schema(
    [*SCHEMA, ("reason", pa.string()), ("detail", pa.string())], metadata=SCHEMA.metadata
)
