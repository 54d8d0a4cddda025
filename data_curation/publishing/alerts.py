"""What a curation says loudly: a split or a source that is left empty, tags that are nearly all the
same, questions that went for want of reasoning. Each is a line that counts and says what to do, on
the console and on the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import duckdb

from bimode.config.curate import CurateConfig
from bimode.evaluation.statistics import percent
from bimode.storage.dataset import SPLITS
from data_curation.parquet_sql import parquet
from data_curation.publishing.published import Published, by_reason
from data_curation.publishing.samples import quoted
from data_curation.sources.layouts import source_name

if TYPE_CHECKING:
    from data_curation.store import Store

FILES_SHOWN = 5
TEACHER = "name curate.traces.model to have reasoning written, or map a column of it as `trace`"
FIXES = {  # of reasons that a key of the recipe changes
    "no_trace": TEACHER,
    "needs_judge": "name curate.judge.model",
    "untagged": "raise curate.tag_rows or curate.paired_share",
    "trained_on": "name another model in curate.rollouts.models, or set curate.paired_share = 1.0",
}


def alerts(store: Store, published: Published, config: CurateConfig) -> tuple[str, ...]:
    """All warnings of a curation that left something in every split."""
    lines = (
        warn_about_share(published, config),
        warn_about_traces(published, config),
        *warn_about_sources(store, config),
        warn_about_items(store),
    )
    return tuple(filter(None, lines))


def warn_about_share(published: Published, config: CurateConfig) -> str:
    """One loud line if the reasoning share is outside 20-60 %, else an empty string (R-4B's own is
    34 %).
    """
    share = published.reasoning_share
    if share is None or 0.2 <= share <= 0.6:
        return ""
    is_generated, too = (
        any(source.draws for source in config.sources),
        "easier" if share > 0.5 else "harder",
    )
    fix = "change curate.level_weights" if is_generated else f"add {too} questions"
    if is_generated and any(source.path for source in config.sources):
        fix += f", which is for families alone, or add {too} questions to the files"
    tags = ", ".join(
        f"{published.tags.get(mode, 0):,} {mode}" for mode in ("thinking", "either", "non_thinking")
    )
    return (
        f"WARNING: {percent(share)} of the tagged train questions that are kept are reasoning"
        f" ({tags}), outside 20-60 %: {fix}, or check that the tagging model can answer at all, and"
        " within curate.rollouts.max_tokens"
    )


def warn_about_traces(published: Published, config: CurateConfig) -> str:
    """One line if questions whose tag asks for reasoning went because there is none: the share of
    what is kept hides them.
    """
    lost = published.rejects.get("no_trace", 0)
    if not lost:
        return ""
    fix = TEACHER
    if config.traces.model:
        fix = (
            "curate.traces.model wrote none that can be shown: raise curate.traces.samples or"
            " max_tokens, or name another model"
        )
    return (
        f"WARNING: no_trace took {lost:,} of the train questions that are tagged as reasoning,"
        f" since there is none to show: {fix}"
    )


def warn_about_sources(store: Store, config: CurateConfig) -> list[str]:
    """A line for each source of which nothing is kept, with its reasons and an example of the most
    frequent one.
    """
    counts: dict[str, dict[str, int]] = {
        source_name(source): {}
        for source in config.sources
        if source.path and source.split != "decontaminate"
    }
    for (source, reason), n in store.counts(["source", "reason"]).items():
        counts.setdefault(source or "", {})[reason] = n
    return [_lost(store, source, lost) for source, lost in counts.items() if "" not in lost]


def warn_about_files(store: Store, read: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each file of which no row could be used; `read` has the source and the name of
    each that was read.

    A row that repeats another, or that a later stage leaves out, could be used. Where no file of a
    source is left, `warn_about_sources` says so.
    """
    query = (
        "SELECT source, file, bool_or(reason = ''), string_agg(n || ' ' || reason, ', ' ORDER BY n"
        " DESC) FROM (SELECT source, regexp_replace(source_refs[1], '#[0-9]+$', '') AS file,"
        f" reason, count(*) AS n FROM {parquet(dict.fromkeys(store.files))} GROUP BY ALL) GROUP BY"
        " source, file"
    )
    with duckdb.connect() as db:
        found = {(row[0], row[1]): row[2:] for row in db.execute(query).fetchall()}
    left = {source for (source, _), (is_used, _) in found.items() if is_used}
    lines = []
    for source, file in read:
        is_used, reasons = found.get((source, file), (False, "it holds no record"))
        if source in left and not is_used:
            lines.append(
                f"WARNING: no row of the file {file} of source {source} could be used: {reasons}"
            )
    more = (
        [f"WARNING: nor of {len(lines) - FILES_SHOWN:,} more files"]
        if len(lines) > FILES_SHOWN
        else []
    )
    return lines[:FILES_SHOWN] + more


def warn_about_items(store: Store) -> str:
    """One line if items of split `decontaminate` were refused: they stand in no rejects, and what
    repeats them is not found.
    """
    query = (
        "SELECT reason, count(*) AS n, min(source_refs[1] || ': ' || reason || ': ' || detail)"
        f" FROM {parquet(dict.fromkeys(store.files))}"
        " WHERE split = 'decontaminate'"
        " AND reason <> '' GROUP BY ALL ORDER BY n DESC, reason"
    )
    with duckdb.connect() as db:
        lost = db.execute(query).fetchall()
    if not lost:
        return ""
    n, told = sum(n for _, n, _ in lost), by_reason({reason: n for reason, n, _ in lost})
    return (
        f"WARNING: {n:,} evaluation items of split `decontaminate` are compared with nothing:"
        f" {told}, e.g. {lost[0][2]}"
    )


def starving(store: Store, splits: Iterable[str]) -> str:
    """What became of the rows of those of `splits` that have none left; "" where all have some."""
    alive, wanted = store.counts(["split"], "reason = ''"), set(splits)
    return "; ".join(
        _starved(store, split) for split in SPLITS if split in wanted and not alive.get(split)
    )


def _lost(store: Store, source: str, lost: dict[str, int]) -> str:
    if not lost:
        return f"WARNING: source {source} holds no record"
    told = _told(store, f"coalesce(source, '') = {quoted(source)}", lost)
    return f"WARNING: no row of source {source or '(unknown)'} is kept: {told}"


def _starved(store: Store, split: str) -> str:
    lost = store.counts(["reason"], f"split = '{split}'")
    if not lost:
        return f"no {split} question is left: its sources hold no record"
    told, fix = _told(store, f"split = '{split}'", lost), FIXES.get(_most(lost), "")
    return f"no {split} question is left: {told}{fix and f'; {fix}'}"


def _most(lost: dict[str, int]) -> str:
    return max(lost, key=lambda reason: lost[reason])


def _told(store: Store, where: str, lost: dict[str, int]) -> str:
    """The reasons, with a row of the most frequent one, so that what all of them lack can be
    seen.
    """
    named = f"{where} AND reason = {quoted(_most(lost))}"
    [row] = store.table(["source_refs", "reason", "detail"], named, "file, row", 1).to_pylist()
    example = ": ".join(filter(None, (", ".join(row["source_refs"]), row["reason"], row["detail"])))
    return f"{by_reason(lost)}, e.g. {example}"
