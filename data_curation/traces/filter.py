"""The checks of generated traces, applied to sources' own traces in all rows of the store; and one
that needs all rows: one and the same trace under different answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bimode.config.curate import FilterConfig
from bimode.config.traces import TraceConfig
from bimode.storage.dataset import Row
from data_curation.checks.filters import filter_trace
from data_curation.store import Store
from data_curation.tagging.tagging import ALIVE_TRAIN
from data_curation.traces.checks import TEMPLATE, check_trace, hash_of, is_replaceable, trace_key

COLUMNS = (
    "file",
    "row",
    "content",
    "question",
    "answer",
    "answer_key",
    "verifier",
    "verifier_args",
    "trace",
)
HAS_TRACE = f"{ALIVE_TRAIN} AND trim(trace) <> ''"
Ints = NDArray[np.int64]


def refuse_traces(store: Store, config: TraceConfig, limits: FilterConfig) -> None:
    """Applies the checks to sources' own traces.

    If the recipe names a teacher, a refused trace is dropped and the row stays, to get another one
    (the teacher gets no open questions). Else the row is rejected with the check's reason: a trace
    that contradicts its answer speaks against both. `limits` are those of the other filters, which
    check no trace that a teacher can replace.
    """
    store.update(["trace", "reason", "detail"], _refused(store, config, limits))


def _refused(store: Store, config: TraceConfig, limits: FilterConfig) -> Iterator[Row]:
    # file, row, taught, trace, content, answer of each trace that passed: 48 bytes a row
    sound = array("q")
    for batch in store.batches(COLUMNS, HAS_TRACE, "file, row"):
        for row in batch.to_pylist():
            reason, detail = check_trace(row, row["trace"], config)
            taught = is_replaceable(row["verifier"], config)
            if taught and not reason:
                reason, detail = filter_trace(row["question"], row["answer"], row["trace"], limits)
            if reason:
                yield _flaw(row["file"], row["row"], row["trace"], reason, detail, taught)
            else:
                keys = trace_key(row["trace"]), hash_of(row["content"]), hash_of(row["answer_key"])
                sound.extend((row["file"], row["row"], taught, *keys))
    files, rows, taughts, traces, contents, answers = (
        np.frombuffer(sound, dtype=np.int64).reshape(-1, 6).T
    )
    templates = template_traces(traces, contents, answers, config.template_rows)
    for at in np.flatnonzero(np.isin(traces, list(templates))):
        shared, meant = templates[int(traces[at])]
        detail = f"the same in {shared} rows with {meant} answers"
        yield _flaw(int(files[at]), int(rows[at]), "", TEMPLATE, detail, bool(taughts[at]))


def _flaw(file: int, row: int, trace: str, reason: str, detail: str, taught: bool) -> Row:
    """What becomes of a row; if it is `taught`, a teacher may write another trace."""
    if taught:
        trace, detail = "", f"its own trace is refused: {reason} {detail}".strip()
        reason = ""
    return {"file": file, "row": row, "trace": trace, "reason": reason, "detail": detail}


def template_traces(
    traces_N: Ints, contents_N: Ints, answers_N: Ints, rows: int
) -> dict[int, tuple[int, int]]:
    """Finds traces of at least `rows` different rows with at least two answers, and returns both
    counts of each; all three arrays are hashes.

    One trace for many answers is the reasoning of none of them. Rows of one question and answer may
    well share theirs.
    """
    rows_N = pa.table({"trace": traces_N, "content": contents_N, "answer": answers_N})
    counts = rows_N.group_by("trace").aggregate(
        [("content", "count_distinct"), ("answer", "count_distinct")]
    )
    keys, shared, meant = (counts[name].to_numpy() for name in counts.column_names)
    found = np.flatnonzero((shared >= rows) & (meant > 1))
    return {int(keys[at]): (int(shared[at]), int(meant[at])) for at in found}
