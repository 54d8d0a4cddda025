"""Attempts -> tags: a narrow table keyed by row, which re-tagging rewrites without touching an
image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from bimode.config.curate import CurateConfig
from bimode.grading.verify import OPEN
from bimode.modes import Mode
from bimode.storage.dataset import Row
from data_curation.formats import is_paired, share_of
from data_curation.sampling.attempts import Tagger
from data_curation.sampling.cache import read_replies
from data_curation.sampling.prompt_job import RIGHT
from data_curation.store import Store
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
OVERLAY = (*TAG_COLUMNS, "reason", "detail")
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
NARROW = ("file", "row", "id", "content", "content_key", "guess_rate")


@dataclass(frozen=True, slots=True)
class Sampled:
    """The rows (`NARROW` columns) that a model was prompted with, and its folder of attempts."""

    tagger: Tagger
    chosen: pa.Table
    folder: Path


@dataclass(frozen=True, slots=True)
class Passes:
    """Counts of one row's attempts: right ones in either mode, and all that have a verdict. `error`
    is of one that has none.
    """

    non_thinking: int = 0
    thinking: int = 0
    tried: int = 0
    error: str = ""


def objective_rows(store: Store) -> pa.Table:
    """The train rows that attempts can tag (`NARROW` columns), ordered by file and row."""
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


def count_passes(folder: Path, chosen: pa.Table, n: int) -> dict[str, Passes]:
    """Counts the right attempts at each row of `chosen`, by id, among the first `n` of each
    mode.
    """
    passes = {}
    for row, replies in read_replies(folder, chosen):
        replies = [reply for reply in replies if reply.number < n]
        right = Counter(reply.mode for reply in replies if reply.verdict == RIGHT)
        errors = [reply.error for reply in replies if reply.error]
        passes[row["id"]] = Passes(
            right[Mode.NON_THINKING],
            right[Mode.THINKING],
            len(replies) - len(errors),
            max(errors, default=""),
        )
    return passes


def tag_rows(
    store: Store, sampled: Sequence[Sampled], known: pa.Table, config: CurateConfig
) -> None:
    """Tags the rows that were sampled, and rejects train rows without a tag, unless they are
    exported in both formats whatever their tag: as `trained_on` if they are in `known`, the rows
    that all models were trained on, else as `untagged`.
    """
    store.update(OVERLAY, _tagged_rows(store, sampled, known, config))


def _tagged_rows(
    store: Store, sampled: Sequence[Sampled], known: pa.Table, config: CurateConfig
) -> Iterator[Row]:
    for each in sampled:
        yield from _tags(each, config)
    done = {name for each in sampled for name in each.chosen["id"].to_pylist()}
    trained_on = set(known["id"].to_pylist())
    for row in objective_rows(store).to_pylist():
        if row["id"] not in done and not is_paired(row["id"], config):
            reason = "trained_on" if row["id"] in trained_on else "untagged"
            yield row | UNTAGGED | {"reason": reason, "detail": ""}


def _tags(sampled: Sampled, config: CurateConfig) -> Iterator[Row]:
    tagger, rows = sampled.tagger, sampled.chosen.to_pylist()
    n = tagger.config.n
    passes = count_passes(sampled.folder, sampled.chosen, n)
    tried = [row for row in rows if passes[row["id"]].tried == 2 * n]
    guess = sum(row["guess_rate"] for row in tried) / max(len(tried), 1)
    right = sum(passes[row["id"]].thinking for row in tried)
    thinks = can_think(right, n * len(tried), guess, config.tag.confidence)
    for row in rows:
        of_row = passes[row["id"]]
        if of_row.tried < 2 * n:
            yield row | UNTAGGED | {"reason": "rollout_failed", "detail": of_row.error}
            continue
        tag = assign_tag(
            of_row.non_thinking, of_row.thinking, n, row["guess_rate"], thinks, config.tag
        )
        yield row | {
            "mode": tag.mode,
            "mode_reason": "pass_rate",
            "mode_conf": tag.confidence,
            "n_rollouts": n,
            "tag_rule": tag.reason,
            "tag_low": tag.interval[0],
            "tag_high": tag.interval[1],
            "n_pass_non_thinking": of_row.non_thinking,
            "n_pass_thinking": of_row.thinking,
            "pass_rate_non_thinking": of_row.non_thinking / n,
            "pass_rate_thinking": of_row.thinking / n,
            "rollout_model": tagger.name,
            "rollout_params_hash": tagger.params_hash,
            "reason": "",
            "detail": "",
        }


def reject_traceless(store: Store) -> None:
    """Rejects train rows that are tagged thinking and have no trace. Their `detail` says why their
    own trace was refused, and stays.
    """
    where = f"{ALIVE_TRAIN} AND mode = 'thinking' AND trim(trace) = ''"
    rows = store.table(["file", "row"], where, "file, row").to_pylist()
    store.update(["reason"], (row | {"reason": "no_trace"} for row in rows))
