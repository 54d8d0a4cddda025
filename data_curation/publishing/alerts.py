"""What a curation says loudly: why a split is left empty. Each is a line that counts the reasons and says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bimode.dataset import SPLITS
from data_curation.publishing.published import by_reason

if TYPE_CHECKING:
    from data_curation.store import Store

TEACHER = "name curate.traces.model to have reasoning written, or map a column of it as `trace`"
FIXES = {  # of reasons that a key of the recipe changes
    "no_trace": TEACHER,
    "needs_judge": "name curate.judge.model",
    "untagged": "raise curate.tag_rows or curate.paired_share",
    "trained_on": "name another model in curate.rollouts.models, or set curate.paired_share = 1.0",
}


def starving(store: Store, splits: Iterable[str]) -> str:
    """What became of the rows of those of `splits` that have none left; "" where all have some."""
    alive, wanted = store.counts(["split"], "reason = ''"), set(splits)
    return "; ".join(_starved(store, split) for split in SPLITS if split in wanted and not alive.get(split))


def _starved(store: Store, split: str) -> str:
    """One split that is empty, with one of its rows, so that what all of them lack can be seen."""
    lost = store.counts(["reason"], f"split = '{split}'")
    if not lost:
        return f"no {split} question is left: its sources hold no record"
    [first] = store.table(["source_refs", "reason", "detail"], f"split = '{split}'", "file, row", 1).to_pylist()
    example = ": ".join(filter(None, (", ".join(first["source_refs"]), first["reason"], first["detail"])))
    fix = FIXES.get(max(lost, key=lambda reason: lost[reason]), "")
    return f"no {split} question is left: {by_reason(lost)}, e.g. {example}{fix and f'; {fix}'}"
