"""Rollouts -> tags: a narrow table keyed by row, which re-tagging rewrites without touching an
image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from bimode.config.curate import CurateConfig
from bimode.grading.verify import OPEN
from bimode.modes import Mode
from bimode.storage.dataset import Row
from data_curation.candidates import CANDIDATE_SCHEMA
from data_curation.formats import is_paired, share_of
from data_curation.parquet_sql import parquet
from data_curation.sampling.attempts import Tagger
from data_curation.sampling.parts import parts_of
from data_curation.store import MEMORY, Store, write_overlay
from data_curation.tagging.tags import assign_tag, can_think, enough_attempts

TAG_COLUMNS = (
    "mode",
    "mode_reason",
    "mode_conf",
    "tag_rule",
    "tag_low",
    "tag_high",
    "n_rollouts",
    "n_pass_non_thinking",
    "n_pass_thinking",
    "pass_rate_non_thinking",
    "pass_rate_thinking",
    "rollout_model",
    "rollout_params_hash",
)
OVERLAY = [(name, CANDIDATE_SCHEMA.field(name).type) for name in (*TAG_COLUMNS, "reason", "detail")]
UNTAGGED: Row = dict.fromkeys(TAG_COLUMNS) | {
    "mode": "either",
    "mode_reason": "untagged",
    "mode_conf": 0.0,
    "tag_rule": "",
    "rollout_model": "",
    "rollout_params_hash": "",
    "n_rollouts": 0,
    "n_pass_non_thinking": 0,
    "n_pass_thinking": 0,
}
ALIVE_TRAIN = "split = 'train' AND reason = ''"
OBJECTIVE = (  # a verifier can say whether an attempt is right
    f"{ALIVE_TRAIN} AND verifier <> '{OPEN}'"
)
PASSES = """
    SELECT id, count(*) FILTER (passed AND mode = $2), count(*) FILTER (passed AND mode = $3),
        count(*) FILTER (error = ''), max(error)
    FROM (
        SELECT DISTINCT ON (id, mode, attempt) r.* FROM {parts} r JOIN chosen USING (id, content)
        WHERE attempt < $1
        ORDER BY id, mode, attempt, error <> '', text
    ) GROUP BY id
"""
NARROW = ("file", "row", "id", "content", "content_key", "guess_rate")


@dataclass(frozen=True, slots=True)
class Sampled:
    """The rows (`NARROW` columns) that a model was asked about, and the folder with its attempts at
    them.
    """

    tagger: Tagger
    chosen: pa.Table
    folder: Path


@dataclass(frozen=True, slots=True)
class Passes:
    """Counts of one row's attempts: right ones in either mode, and all that were made. `error` is
    of one that was not.
    """

    direct: int = 0
    think: int = 0
    tried: int = 0
    error: str = ""


def objective_rows(store: Store) -> pa.Table:
    """The train rows that attempts can tag (`NARROW` columns): those still in, ordered by file and
    row.
    """
    return store.table(NARROW, OBJECTIVE, "file, row")


def choose_rows(rows: pa.Table, tag_rows: int) -> pa.Table:
    """Those of `rows` to be tagged, at most `tag_rows` (0 = all).

    The last by hash of the id: those that `curate.paired_share` gives both formats without a tag
    are the first.
    """
    if not tag_rows:
        return rows
    shares = [share_of(name) for name in rows["id"].to_pylist()]
    return rows.take(sorted(sorted(range(len(shares)), key=shares.__getitem__)[-tag_rows:]))


def warn_about_attempts(chosen: pa.Table, config: CurateConfig) -> str:
    """One line if some of `chosen` can be guessed so easily that no number of right attempts makes
    them non_thinking.
    """
    n, rates = config.rollouts.n, Counter(chosen["guess_rate"].to_pylist())
    needed = {rate: enough_attempts(rate, config.tag) for rate in rates}
    rows = sum(count for rate, count in rates.items() if needed[rate] > n)
    if not rows:
        return ""
    return (
        f"WARNING: curate.rollouts.n = {n} attempts are too few to tag {rows} questions"
        f" non_thinking, however many are right; {max(needed.values())} are enough"
    )


def count_passes(cache: Path, chosen: pa.Table, n: int) -> dict[str, Passes]:
    """Of each row of `chosen`, by id: its right attempts among the first `n` of each mode. An error
    counts where no retry did.

    Of one attempt that was made twice (an engine died between writing and saying so) the first by
    text counts, as in `compact`.
    """
    found = dict.fromkeys(chosen["id"].to_pylist(), Passes())
    if parts := parts_of(cache):
        with duckdb.connect(config={"memory_limit": MEMORY}) as db:
            db.register("chosen", chosen)
            rows = db.execute(
                PASSES.format(parts=parquet(parts)),
                [n, Mode.NON_THINKING.value, Mode.THINKING.value],
            ).fetchall()
        found |= {name: Passes(*counts) for name, *counts in rows}
    return found


def tag_rows(
    store: Store, sampled: Sequence[Sampled], known: pa.Table, config: CurateConfig, out: Path
) -> Path:
    """Writes tag, counts and model of the rows that were sampled, and rejects what has none, for
    `Store.apply`.

    A train row without rollouts is rejected, unless it is exported in both formats whatever its
    tag: as `trained_on` if it is in `known`, the rows that all models were trained on, else as
    `untagged`.
    """
    return write_overlay(OVERLAY, _found(store, sampled, known, config), out)


def _found(
    store: Store, sampled: Sequence[Sampled], known: pa.Table, config: CurateConfig
) -> Iterator[Row]:
    for each in sampled:
        yield from _tags(each, config)
    done = {name for each in sampled for name in each.chosen["id"].to_pylist()}
    trained_on = set(known["id"].to_pylist())
    for row in objective_rows(store).to_pylist():
        if row["id"] not in done and not is_paired(row["id"], config):
            reason = "trained_on" if row["id"] in trained_on else "untagged"
            yield (
                {"file": row["file"], "row": row["row"]}
                | UNTAGGED
                | {"reason": reason, "detail": ""}
            )


def _tags(sampled: Sampled, config: CurateConfig) -> Iterator[Row]:
    tagger, rows = sampled.tagger, sampled.chosen.to_pylist()
    n, passes = tagger.sampling.n, count_passes(sampled.folder, sampled.chosen, tagger.sampling.n)
    tried = [row for row in rows if passes[row["id"]].tried == 2 * n]
    guess = sum(row["guess_rate"] for row in tried) / max(len(tried), 1)
    thinks = can_think(
        sum(passes[row["id"]].think for row in tried), n * len(tried), guess, config.tag.confidence
    )
    for row in rows:
        place, of_row = {"file": row["file"], "row": row["row"]}, passes[row["id"]]
        if of_row.tried < 2 * n:
            yield place | UNTAGGED | {"reason": "rollout_failed", "detail": of_row.error}
            continue
        tag = assign_tag(of_row.direct, of_row.think, n, row["guess_rate"], thinks, config.tag)
        yield place | {
            "mode": tag.mode,
            "mode_reason": "pass_rate",
            "mode_conf": tag.confidence,
            "n_rollouts": n,
            "tag_rule": tag.reason,
            "tag_low": tag.interval[0],
            "tag_high": tag.interval[1],
            "n_pass_non_thinking": of_row.direct,
            "n_pass_thinking": of_row.think,
            "pass_rate_non_thinking": of_row.direct / n,
            "pass_rate_thinking": of_row.think / n,
            "rollout_model": tagger.name,
            "rollout_params_hash": tagger.params_hash,
            "reason": "",
            "detail": "",
        }


def reject_traceless(store: Store, out: Path) -> Path:
    """Rejects train rows that ask for reasoning and have none to show."""
    where = f"{ALIVE_TRAIN} AND mode = 'thinking' AND trim(trace) = ''"
    rows = store.table(
        ["file", "row"], where, "file, row"
    ).to_pylist()  # a detail says why its own trace was refused, and stays
    return write_overlay(
        [("reason", pa.string())], (row | {"reason": "no_trace"} for row in rows), out
    )
