"""Annealing under Ray Train: which rows reach which worker, and a run that was cut off ends where
it would have ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimode.errors import StarvedError
from bimode.learner.strategies import plan_steps
from bimode.modes import Mode, render_response
from bimode.renderer import Renderer
from bimode.storage.dataset import SCHEMA, sample_row
from data_curation.demo import arithmetic, charts, digits

FAMILIES = (digits.digit_strip, charts.bar_chart, arithmetic.expression)
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated folder: 12 questions in both formats, over two files. Neither a query nor a column
    is read out of its name.
    """
    folder = tmp_path_factory.mktemp("curated") / "format=x a?b%20c"
    folder.mkdir()
    rows = []
    for i in range(12):
        sample = FAMILIES[i % 3](i, "train", 0, (1, 1, 1))
        for mode in (Mode.THINKING, Mode.NON_THINKING):
            row = sample_row(sample, "train")
            answer = {
                "role": "assistant",
                "content": render_response(mode, sample.trace, sample.answer),
            }
            parents = {"id": f"{sample.id}-{mode}", "parent_ids": [sample.id]}
            rates = {"pass_rate_non_thinking": 0.5, "pass_rate_thinking": 1.0} if i % 2 else {}
            rows.append(
                row | parents | rates | {"format": str(mode), "messages": [*row["prompt"], answer]}
            )
    for k in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows[k::2], schema=SCHEMA),
            folder / f"train-0000{k}-of-00002.parquet",
        )
    return folder


def test_workers_read_the_plan_from_any_step_on(
    ray_local: Any, data: Path, tiny_llava: Path
) -> None:
    from actors.learner.feed import PlannedFeed, Table
    from actors.learner.sequences import read_sequences, to_samples

    table = Table(read_sequences(data, tiny_llava, mask_empty_think=True))
    assert [row.format for row in table.rows] == ["non_thinking", "thinking"] * 12
    assert [row.question for row in table.rows[::2]] == [row.question for row in table.rows[1::2]]
    assert {row.hardness for row in table.rows} == {0.25, 0.5}, "of tags, and of rows without"
    plan_SB = plan_steps(table.rows, "mixed", steps=40, batch_size=6, seed=1)
    written = (row for part in data.iterdir() for row in pq.read_table(part).to_pylist())
    keys = sorted((row["parent_ids"][0], row["format"], row["id"]) for row in written)
    tokens = Renderer(tiny_llava).tokens
    for rank in range(2):
        steps = list(PlannedFeed(table, plan_SB).batches(rank, 2, start=3))
        read = [
            [(row["question"], row["format"], row["id"]) for row in step.to_pylist()]
            for step in steps
        ]
        assert read == [[keys[i] for i in step] for step in plan_SB[3:, 3 * rank : 3 * rank + 3]]
        for sample in to_samples(steps[0]):
            empty = sample.mode is Mode.NON_THINKING
            assert (sample.token_ids_T[:2] == (tokens.direct, tokens.close)) == empty
            assert sample.loss_mask_T[:2] == ((0.0, 0.0) if empty else (1.0, 1.0))
            assert (
                set(sample.loss_mask_T[2:]) == {1.0}
                and sample.images
                and np.isnan(sample.behavior_logprobs_T).all()
            )


def test_an_empty_folder_starves(ray_local: Any, tiny_llava: Path, tmp_path: Path) -> None:
    from actors.learner.sequences import read_sequences

    with pytest.raises(StarvedError, match="nothing to anneal on"):
        read_sequences(tmp_path, tiny_llava, mask_empty_think=False)
