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
        ("content_key", pa.string()),  # `fingerprints.content_key`
        ("question_key", pa.string()),  # of the canonical question alone
        ("content", pa.string()),  # of all that an attempt at the row and its verdict depend on
        ("answer_key", pa.string()),  # `fingerprints.answer_key`
        ("image_thumbs", pa.binary()),  # `fingerprints.thumbnails`
        ("tag_rule", pa.string()),  # the line of the rule that decided; "" if untagged
        ("tag_low", pa.float32()),  # interval of the guess-corrected non-thinking rate
        ("tag_high", pa.float32()),
        ("reason", pa.string()),  # "" while the row stays; else why it is rejected
        ("detail", pa.string()),  # e.g. the id of the row that it repeats
    ]
)
REJECT_SCHEMA = pa.schema(
    [*SCHEMA, ("reason", pa.string()), ("detail", pa.string())], metadata=SCHEMA.metadata
)
