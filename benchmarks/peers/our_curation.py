"""Our side of benchmarks/curation.py: the stage's own steps, without tags: read, decide, write.

It does more than it is asked: each row's schema and its own answer are checked, pictures get a
perceptual hash and a thumbnail, candidates are kept with reasons, and what is written is ordered by
id.

python -m benchmarks.peers.our_curation INPUT WORK TASKS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

import data_curation.sources.ingest as ingest_module
from benchmarks.peers.talk import Answer, Line
from bimode.config.curate import CurateConfig, DedupConfig, SourceConfig
from bimode.config.recipe import ClusterConfig
from bimode.storage.dataset import SCHEMA
from cluster.session import connect
from data_curation.dedup.decide import decide
from data_curation.publishing.publish import lineage, stamped, write_shards
from data_curation.sources.ingest import ingest
from data_curation.sources.listing import file_shards, list_sources
from data_curation.store import Store

NAME = "bench"
COLUMNS = {name: name for name in ("question", "answer", "images", "trace", "id", "task", "level")}


def recipe(source: Path) -> CurateConfig:
    """Rows are compared by question and pixels alone."""
    files = SourceConfig(path=str(source), reader="parquet", columns=COLUMNS, name=NAME)
    return CurateConfig(
        sources=(files,), dedup=DedupConfig(image_radius=0, text_similarity=0.0, ngram=0)
    )


def curate(config: CurateConfig, work: Path, tasks: int) -> dict[str, float]:
    """Reads the source of `config`, writes `work`/data; returns the seconds of the three steps.
    Needs a connected Ray.
    """
    clock = [time.perf_counter()]
    work.mkdir(parents=True)
    shards = file_shards(config.sources, list_sources(config.sources, work / "sources.json"))
    set_processes(tasks, sum(shard.size for shard in shards))
    files = ingest(shards, config, work / "candidates", lambda done: None)
    clock.append(time.perf_counter())
    decisions = work / "decisions.parquet"
    decide(files, [], config.dedup, decisions)
    clock.append(time.perf_counter())
    store = Store(files, work / "scratch")
    store.add_overlay(decisions)
    write_shards(_rows(store, config), SCHEMA, work / "data", "train")
    store.close()
    clock.append(time.perf_counter())
    return {
        name: b - a
        for name, a, b in zip(("read", "decide", "write"), clock, clock[1:], strict=False)
    }


def set_processes(tasks: int, rows: int) -> None:
    """Has `ingest` take `tasks` processes for `rows` rows: it takes one, and one more for each
    ROWS_PER_PROCESS.

    Not by Ray Data's `resource_limits`: within a limit of two CPUs it ran one task at a time.
    """
    ingest_module.ROWS_PER_PROCESS = rows // (tasks - 1) if tasks > 1 else rows + 1


def _rows(store: Store, config: CurateConfig) -> Iterator[pa.Table]:
    ops = lineage(config)
    for table in store.batches(SCHEMA.names, "reason = ''"):
        yield stamped(table.cast(SCHEMA), ops)


def cpu_seconds() -> float:
    """Of this process and all below it, those that ended too."""
    import psutil

    root = psutil.Process()
    return float(
        sum(sum(process.cpu_times()[:4]) for process in (root, *root.children(recursive=True)))
    )


def main() -> None:
    source, work, tasks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    line = Line()
    config = recipe(source)
    began = time.perf_counter()
    with connect(ClusterConfig()):
        line.on_event(Answer(seconds=time.perf_counter() - began))
        while name := line.next():
            began, cpu = time.perf_counter(), cpu_seconds()
            parts = curate(config, work / name, tasks)
            parts["cpu"] = cpu_seconds() - cpu
            line.on_event(Answer(seconds=time.perf_counter() - began, parts=parts))


if __name__ == "__main__":
    main()
