"""A small curation without Ray or an engine: candidates of built-in families, and rollouts as if a
model had made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bimode.config.curate import CurateConfig, RolloutSampling, SourceConfig
from bimode.modes import Mode
from bimode.storage.dataset import Row
from data_curation.dedup.decide import decide
from data_curation.sampling.attempts import MODES, ROLLOUT_SCHEMA, Rollout, Tagger
from data_curation.sampling.parts import write_part
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
    change: Callable[[Rollout], Rollout | None] = lambda rollout: rollout,
) -> Store:
    """`store` tagged by `passes` right direct attempts of 4 by level and no right thinking one;
    `change` alters or drops some.
    """
    chosen = choose_rows(objective_rows(store), config.tag_rows)
    levels = {row["id"]: row["level"] for row in store.table(["id", "level"]).to_pylist()}
    made = [
        Rollout(
            row["id"],
            row["content"],
            mode.value,
            k,
            mode is Mode.NON_THINKING and k < passes[levels[row["id"]]],
            3,
            "",
            "",
        )
        for row in chosen.to_pylist()
        for mode in MODES
        for k in range(config.rollouts.n)
    ]
    cache = scratch / "rollouts"
    write_part(cache, [new for old in made if (new := change(old)) is not None], ROLLOUT_SCHEMA)
    store.add_overlay(
        tag_rows(
            store,
            [Sampled(tagger(config), chosen, cache)],
            chosen.slice(0, 0),
            config,
            scratch / "tags.parquet",
        )
    )
    store.add_overlay(reject_traceless(store, scratch / "traceless.parquet"))
    return store


def rows_of(store: Store, where: str = "true") -> list[Row]:
    """Everything that the store says of its rows."""
    return [row for batch in store.batches(store.schema.names, where) for row in batch.to_pylist()]
