"""Rollouts -> tags on candidates, and the narrow table of tags that re-tagging would rewrite without touching an image."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from bimode.config import CurateConfig
from bimode.modes import Mode
from bimode.tags import assign_tag, can_think
from data_curation.candidates import replace_columns
from data_curation.formats import is_paired, share_of
from data_curation.rollouts import Rollout, Tagger

TAG_COLUMNS = (
    "id", "split", "task", "level", "mode", "mode_reason", "mode_conf", "tag_rule", "tag_low", "tag_high", "n_rollouts",
    "n_pass_direct", "n_pass_think", "pass_rate_direct", "pass_rate_think", "guess_rate", "rollout_model",
    "rollout_params_hash",
)  # fmt: skip


def choose_rows(candidates: pa.Table, tag_rows: int) -> list[int]:
    """Positions of the train rows to be tagged: those still in, at most `tag_rows` (0 = all).

    The last by hash of the id: those that `curate.paired_share` gives both formats without a tag are the first.
    """
    rows = candidates.select(["id", "split", "reason"]).to_pylist()
    alive = [i for i, row in enumerate(rows) if row["split"] == "train" and not row["reason"]]
    if not tag_rows:
        return alive
    return sorted(sorted(alive, key=lambda i: share_of(rows[i]["id"]))[-tag_rows:])


def tag_candidates(candidates: pa.Table, rollouts: Sequence[Rollout], tagger: Tagger, curate: CurateConfig) -> pa.Table:
    """`candidates` with tag, counts and model filled in where there are rollouts.

    A train row without any is rejected as `untagged`, unless it is exported in both formats whatever its tag.
    """
    n, config = tagger.sampling.n, curate.tag
    passes = {(r.id, mode): 0 for r in rollouts for mode in (Mode.NON_THINKING.value, Mode.THINKING.value)}
    errors = {r.id: r.error for r in rollouts if r.error}
    for r in rollouts:
        passes[r.id, r.mode] += r.passed
    rows = candidates.drop_columns(["images"]).to_pylist()
    tagged = [row for row in rows if (row["id"], "thinking") in passes]
    guess = sum(row["guess_rate"] for row in tagged) / max(len(tagged), 1)
    total = sum(passes[row["id"], "thinking"] for row in tagged)
    thinks = can_think(total, n * len(tagged), guess, config.confidence)
    for row in rows:
        if (row["id"], "thinking") in passes and row["id"] not in errors:
            direct, think = passes[row["id"], "non_thinking"], passes[row["id"], "thinking"]
            tag = assign_tag(direct, think, n, row["guess_rate"], thinks, config)
            row |= {
                "mode": tag.mode, "mode_reason": "pass_rate", "mode_conf": tag.confidence, "n_rollouts": n,
                "tag_rule": tag.reason, "tag_low": tag.interval[0], "tag_high": tag.interval[1],
                "n_pass_direct": direct, "n_pass_think": think, "pass_rate_direct": direct / n,
                "pass_rate_think": think / n, "rollout_model": tagger.name, "rollout_params_hash": tagger.params_hash,
            }  # fmt: skip
        elif row["split"] == "train" and not row["reason"]:
            failed = row["id"] in errors
            if not failed and is_paired(row["id"], curate):
                continue
            row |= {"reason": "rollout_failed" if failed else "untagged", "detail": errors.get(row["id"], "")}
    names = [*TAG_COLUMNS[4:], "reason", "detail"]
    names.remove("guess_rate")
    return replace_columns(candidates, {name: [row[name] for row in rows] for name in names})


def tag_table(candidates: pa.Table) -> pa.Table:
    """The narrow table of tags, one line a tagged row."""
    rows = candidates.select(list(TAG_COLUMNS))
    return rows.filter(pa.compute.equal(rows["mode_reason"], "pass_rate"))
