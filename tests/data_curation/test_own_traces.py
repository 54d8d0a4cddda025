"""Sources' own traces: refused with a reason, or given to the teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from bimode.config.curate import CurateConfig, FilterConfig
from bimode.config.traces import TraceConfig
from data_curation.traces.filter import refuse_traces, template_traces
from data_curation.traces.generate import (
    choose_rows,
)
from tests.data_curation.flow import NAMES, write


def test_own_traces_are_refused_with_a_reason_or_given_to_the_teacher(
    table: pa.Table, tmp_path: Path
) -> None:
    chains = table["trace"].to_pylist()
    chains[1], chains[2] = "we look . so 99", "I'm sorry , " + chains[2]
    chains[0] = (  # of which a filter thinks nothing, where no teacher would write another
        f"So the answer is {table['answer'][0]}"
    )
    for model, expected in (
        ("", [(chains[1], "inconsistent_trace"), (chains[2], "forbidden_phrase")]),
        ("base", [("", ""), ("", "")]),
    ):
        folder = tmp_path / f"own-{model}"
        folder.mkdir()
        store = write(table, folder / "c.parquet", trace=chains)
        refuse_traces(store, TraceConfig(model=model), FilterConfig())
        rows = store.table(["trace", "reason", "detail"]).to_pylist()
        assert [(row["trace"], row["reason"]) for row in rows[1:3]] == expected
        assert (rows[0]["trace"], rows[0]["reason"]) == ("" if model else chains[0], "")
        assert all(row["detail"] for row in rows[1:3])
        assert [(row["trace"], row["reason"]) for row in rows[3:]] == [
            (chain, "") for chain in chains[3:]
        ]
        wanted = choose_rows(store, CurateConfig(paired_share=1.0), TraceConfig(model=model))[
            "id"
        ].to_pylist()
        assert wanted == (NAMES[:3] if model else [])


def test_one_trace_for_many_answers_is_a_template(table: pa.Table, tmp_path: Path) -> None:
    words = [f"w{k}" for k in range(6)]
    changed = {
        "trace": ["look at it closely and think"] * 6,
        "verifier": ["exact"] * 6,
        "answer": words,
        "answer_key": words,
    }
    store = write(table, tmp_path / "t.parquet", **changed)
    refuse_traces(store, TraceConfig(template_rows=6), FilterConfig())
    assert set(store.table(["reason"])["reason"].to_pylist()) == {"template_trace"}
    assert store.table(["detail"])["detail"][0].as_py() == "the same in 6 rows with 6 answers"
    (tmp_path / "taught").mkdir()
    told = {"trace": ["look at 1 part of it"] * 6, "verifier": ["open", *["exact"] * 5]}
    taught = write(table, tmp_path / "taught" / "t.parquet", **(changed | told))
    limits = TraceConfig(model="base", template_rows=6)
    refuse_traces(taught, limits, FilterConfig())
    assert taught.table(["reason"])["reason"].to_pylist() == [
        "template_trace",
        *[""] * 5,
    ], "an open question has no teacher"
    (tmp_path / "few").mkdir()
    few = write(table, tmp_path / "few" / "t.parquet", **changed)
    refuse_traces(few, TraceConfig(template_rows=7), FilterConfig())
    assert set(few.table(["reason"])["reason"].to_pylist()) == {""}


def test_templates_by_hand() -> None:
    traces, contents, answers = (
        [1] * 3 + [2] * 3 + [3] * 3,
        [1, 2, 3, 4, 5, 6, 7, 7, 7],
        [1, 1, 2, 5, 5, 5, 1, 2, 3],
    )
    args = [np.array(column, dtype=np.int64) for column in (traces, contents, answers)]
    # 1: three rows, two answers; 2: one answer; 3: one row that stands there three times
    assert template_traces(*args, 3) == {1: (3, 2)}
    assert template_traces(*args, 4) == {} and template_traces(*args, 1) == {1: (3, 2), 3: (1, 3)}
    assert template_traces(*(np.array([], dtype=np.int64),) * 3, 1) == {}
