"""A small curation without Ray or an engine: candidates of built-in families, and rollouts as if a
model had made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bimode.config.curate import CurateConfig, RolloutSampling, SourceConfig
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest
from bimode.storage.dataset import Row
from data_curation.dedup.decide import decide
from data_curation.sampling.attempts import MODES, Tagger
from data_curation.sampling.cache import Reply, write_replies
from data_curation.sources.ingest import write_candidates
from data_curation.sources.shards import plan_draws, shard_key
from data_curation.store import Store
from data_curation.tagging.tagging import (
    Sampled,
    choose_rows,
    objective_rows,
    reject_traceless,
    tag_rows,
)

SOURCES = tuple(SourceConfig(family=name) for name in ("digits", "charts", "arithmetic"))
CONFIG = CurateConfig(
    sources=SOURCES, train=12, rl=6, eval=9, paired_share=0.0, rollouts=RolloutSampling(n=4)
)
RIGHT_WHEN_EASY = {"easy": 4, "mid": 0, "hard": 0}


def candidate_files(folder: Path, config: CurateConfig = CONFIG) -> list[Path]:
    """The candidates of the recipe's families, one file a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for shard in plan_draws(config, 0):
        files.append(folder / f"{shard_key(shard, config)}.parquet")
        write_candidates(shard, files[-1], config)
    return files


def decided(files: list[Path], scratch: Path, config: CurateConfig = CONFIG) -> Store:
    """The store of `files` after dedup and decontamination."""
    store = Store(files, scratch)
    decide(files, [], config.dedup, scratch / "decisions.parquet")
    store.add_overlay(scratch / "decisions.parquet")
    return store


def tagger(config: CurateConfig = CONFIG) -> Tagger:
    """A model that is never asked."""
    return Tagger(object, "tiny", "0", "float32", 256, config.rollouts, 0, {})


def tagged(
    store: Store,
    scratch: Path,
    passes: Mapping[str, int] = RIGHT_WHEN_EASY,
    config: CurateConfig = CONFIG,
    change: Callable[[Reply], Reply | None] = lambda reply: reply,
) -> Store:
    """`store` tagged by `passes` right non-thinking attempts of 4 by level and no right thinking
    one; `change` alters or drops some.
    """
    chosen = choose_rows(objective_rows(store), config.tag_rows)
    levels = {row["id"]: row["level"] for row in store.table(["id", "level"]).to_pylist()}
    made = [
        attempt(row, mode, k, mode is Mode.NON_THINKING and k < passes[levels[row["id"]]])
        for row in chosen.to_pylist()
        for mode in MODES
        for k in range(config.rollouts.n)
    ]
    cache = scratch / "rollouts"
    write_replies(cache, [new for old in made if (new := change(old)) is not None])
    tag_rows(store, [Sampled(tagger(config), chosen, cache)], chosen.slice(0, 0), config)
    reject_traceless(store)
    return store


def attempt(row: Row, mode: str, number: int, right: bool, text: str = "") -> Reply:
    """One attempt at `row`."""
    verdict = "right" if right else "wrong"
    return Reply(row["id"], row["content"], str(mode), number, 0, verdict, 1.0, 3, text, "")


def rows_of(store: Store, where: str = "true") -> list[Row]:
    """Everything that the store says of its rows."""
    return [row for batch in store.batches(store.schema.names, where) for row in batch.to_pylist()]


NAMES = [f"digits-train-0-{k}" for k in range(6)]


def write(table: pa.Table, path: Path, **columns: list[Any]) -> Store:
    """A store of `table` with some columns replaced."""
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.array(values, type=table.schema.field(at).type)
        )
    pq.write_table(table, path)
    return Store([path], path.parent / "scratch")


def completion(request: GenerationRequest, text: str, finished: bool = True) -> Completion:
    """A completion of as many tokens as `text` has words."""
    return Completion(
        prompt_id=request.prompt.id,
        mode=request.mode,
        prompt_ids=(),
        token_ids_T=(7,) * len(text.split()),
        num_forced=0,
        logprobs_T=(),
        versions_T=(),
        text=text,
        finished=finished,
        worker="scripted",
    )
