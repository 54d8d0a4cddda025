"""Sources -> candidates: one Ray Data job that draws every question, checks it, and marks what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from bimode.config import CurateConfig, SourceConfig
from bimode.dataset import Row, sample_row
from bimode.errors import ConfigError
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.families import family_of
from data_curation.validate import check_row

ROWS_PER_TASK = 256
ROWS_PER_PROCESS = 200  # at least: a process that draws first imports for seconds
ONE_LEVEL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Draw:
    """`count` questions of one source for one split, e.g. ``Draw(source, "train", source_split="base", count=300)``."""

    source: SourceConfig
    split: str
    source_split: str
    count: int


def plan_draws(config: CurateConfig) -> list[Draw]:
    """How many questions each source gives to each split, by weight; the largest remainders take what is left over.

    Raises ConfigError for a source that is named twice (its questions would be the same) or a task without a trace.
    """
    names = [name for source in config.sources for name in (source.tasks or (source.family,))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError("curate.sources", ", ".join(twice), "named twice; give one entry the sum of the weights")
    for source in config.sources:
        family_of(source)
    total = sum(source.weight for source in config.sources)
    draws = []
    for split, count in (("train", config.train), ("rl", config.rl), ("eval", config.eval)):
        exact = [count * source.weight / total for source in config.sources]
        counts = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
        for i in by_remainder[: count - sum(counts)]:
            counts[i] += 1
        source_split = config.source_split or split if split == "train" else split
        draws += [Draw(source, split, source_split, n) for source, n in zip(config.sources, counts, strict=True)]
    return draws


def draw_row(draw: Draw, index: int, seed: int, weights: tuple[float, float, float]) -> Row:
    """Candidate `index` of `draw`, checked. Evaluation takes the three levels in turn, so that thirds are exact."""
    sample = family_of(draw.source)(index, draw.source_split, seed, ONE_LEVEL[index % 3] if draw.split == "eval" else weights)
    row = sample_row(sample, draw.split) | {
        "trace": sample.trace, "transcription": sample.transcription, "tag_rule": "", "tag_low": None, "tag_high": None,
    }  # fmt: skip
    reason, detail = check_row(row)
    return row | {"reason": reason, "detail": detail}


def draw_candidates(config: CurateConfig, seed: int, on_rows: Callable[[int], None]) -> pa.Table:
    """Every candidate of all splits, ordered by id. Needs a connected Ray; `on_rows` hears of rows as they come."""
    import ray

    draws = plan_draws(config)
    tasks = [
        {"draw": at, "start": start, "stop": min(start + ROWS_PER_TASK, draw.count)}
        for at, draw in enumerate(draws)
        for start in range(0, draw.count, ROWS_PER_TASK)
    ]

    def draw_task(task: Row) -> list[Row]:
        draw = draws[task["draw"]]
        return [draw_row(draw, i, seed, config.level_weights) for i in range(task["start"], task["stop"])]

    def as_table(batch: pa.Table) -> pa.Table:
        rows = [row for task in batch.to_pylist() for row in draw_task(task)]
        return pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)

    processes = 1 + sum(draw.count for draw in draws) // ROWS_PER_PROCESS
    drawn = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        as_table, batch_format="pyarrow", compute=ray.data.TaskPoolStrategy(size=processes)
    )
    parts = []
    for part in drawn.iter_batches(batch_size=None, batch_format="pyarrow"):
        parts.append(part.cast(CANDIDATE_SCHEMA))
        on_rows(part.num_rows)
    return pa.concat_tables(parts).sort_by("id")
