"""Rejects and published rows against the table of what is true: recall and precision of every
stage.

A copy group is an original and its copies: any one of them may stay, and exactly one must. What a
stage removes is right where the row was planted for its class, or is the copy that some other one
of its group stays for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.defect_data.files import Truth
from benchmarks.defect_data.kinds import (
    COPIES,
    KINDS,
    SOUND,
    STAGES,
    Kind,
    Stage,
    group_of,
    stage_named,
)

GOAL = 0.99
KEY = re.compile(r"row-\d{6}")
REF = re.compile(r"([\w-]+\.(?:parquet|jsonl))\W+(\d+)")  # a file and a row in it, from 0
KIND = {kind.name: kind for kind in (*KINDS, SOUND)}
MODES = ("thinking", "non_thinking")


@dataclass(frozen=True, slots=True)
class Removed:
    """A reject: why, and for a contaminated row by which method it was found."""

    key: str
    reason: str
    method: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which keys were published, what was removed, and how many rejects belong to no row of the
    truth.
    """

    kept: frozenset[str]
    removed: Mapping[str, Removed]
    strangers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StageScore:
    """`found` of the `planted` rows were removed by the class of the stage; `right` of those that
    it `removed` were due.
    """

    stage: str
    planted: int
    found: int
    removed: int
    right: int
    goal: bool

    @property
    def recall(self) -> float | None:
        return self.found / self.planted if self.planted else None

    @property
    def precision(self) -> float | None:
        return self.right / self.removed if self.removed else None

    @property
    def worst(self) -> float:
        """The smaller of the two; what is not there does not count."""
        return min((x for x in (self.recall, self.precision) if x is not None), default=1.0)


@dataclass(frozen=True, slots=True)
class KindScore:
    """What became of the rows of a kind: removed for the right class, kept, or removed for
    `others`, with the counts.
    """

    kind: str
    planted: int
    found: int
    kept: int
    others: Mapping[str, int]


def read_outcome(curate: Path, truth: Sequence[Truth]) -> Outcome:
    """What stands in `data/` and `rejects/` below `curate`."""
    find = Finder(truth)
    files = sorted((curate / "data").glob("*.parquet"))
    published = [row for file in files for row in _columns(file, "id", "source_refs", "format")]
    kept = {find(row_id, refs) for row_id, refs, _ in published}
    # every row is written in both formats, so a train row that is not taught as reasoning has lost
    # its trace
    taught = {find(row_id, refs) for row_id, refs, form in published if form != "non_thinking"}
    removed = {key: Removed(key, "no_trace", "") for key in kept - taught - {""}}
    kept &= taught
    strangers: Counter[str] = Counter()
    for file in sorted((curate / "rejects").glob("*.parquet")):
        for row_id, refs, reason, found in _columns(
            file, "id", "source_refs", "reason", "contamination"
        ):
            if key := find(row_id, refs):
                removed[key] = Removed(key, reason, (found or {}).get("method") or "")
            else:
                strangers[reason] += 1
    return Outcome(frozenset(kept - {""}), removed, dict(strangers))


class Finder:
    """Which row of the truth a published row or a reject is: by its id, or by file and row where no
    id could be read.
    """

    def __init__(self, truth: Sequence[Truth]) -> None:
        self._keys = {each.key for each in truth}
        self._places = {(Path(each.file).name, each.row): each.key for each in truth}

    def __call__(self, row_id: str, refs: Sequence[str] | None) -> str:
        """The key, or "" for a stranger."""
        for text in (row_id, *(refs or ())):
            if (match := KEY.search(text)) and match[0] in self._keys:
                return match[0]
        for text in refs or ():
            if match := REF.search(text):
                return self._places.get((match[1], int(match[2])), "")
        return ""


def _columns(file: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    for batch in pq.ParquetFile(file).iter_batches(columns=list(names)):
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def lost(truth: Iterable[Truth], outcome: Outcome) -> tuple[list[str], list[str]]:
    """Keys of rows that are neither published nor among the rejects, and of those that are both: in
    = kept + rejected.
    """
    flowing = [each.key for each in truth if each.split != "decontaminate"]
    return (
        [key for key in flowing if key not in outcome.kept and key not in outcome.removed],
        [key for key in flowing if key in outcome.kept and key in outcome.removed],
    )


def stage_of(removed: Removed, pictured: bool) -> Stage:
    """The stage that removed a row; those that share a reason are told apart by the picture or the
    method.
    """
    if removed.reason == "near_duplicate":
        return stage_named("dedup, near image" if pictured else "dedup, text")
    if removed.reason == "contaminated" and "exact" not in removed.method:
        return stage_named("decontamination, image" if pictured else "decontamination, text")
    return next((stage for stage in STAGES if removed.reason in stage.reasons), STAGES[-1])


def rightly_removed(truth: Sequence[Truth], outcome: Outcome) -> frozenset[str]:
    """Keys of the removed rows that were due."""
    by_key = {each.key: each for each in truth}
    group = {
        key: stage_of(removed, by_key[key].pictured).group
        for key, removed in outcome.removed.items()
    }
    due = {
        key
        for key in outcome.removed
        if by_key[key].kind not in COPIES and group[key] == group_of(KIND[by_key[key].kind].stage)
    }
    for original, copies in _copy_groups(truth).items():
        gone = [key for key in (*copies, original) if group.get(key) == "dedup"]
        due |= set(gone[: len(copies)])  # all gone: the original should have stayed
    return frozenset(due)


def _copy_groups(truth: Iterable[Truth]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for each in truth:
        if each.kind in COPIES:
            groups.setdefault(each.same, []).append(each.key)
    return groups


def score_kinds(truth: Sequence[Truth], outcome: Outcome) -> list[KindScore]:
    """One line a kind. Of a copy group what counts is how many were removed, not which."""
    due = rightly_removed(truth, outcome)
    found: Counter[str] = Counter()
    for each in truth:
        found[each.kind] += each.key in due and each.kind not in COPIES
    kind_of = {each.key: each.kind for each in truth}
    originals = _copy_groups(truth)
    for original, copies in originals.items():
        found[kind_of[copies[0]]] += sum(key in due for key in (original, *copies))
    scores = []
    for name in KIND:
        own = [each for each in truth if each.kind == name and each.split != "decontaminate"]
        others = Counter(
            outcome.removed[e.key].reason
            for e in own
            if e.key in outcome.removed and e.key not in due
        )
        kept = sum(each.key in outcome.kept for each in own)
        scores.append(KindScore(name, len(own), found[name], kept, dict(others.most_common())))
    return scores


def score_stages(truth: Sequence[Truth], outcome: Outcome) -> list[StageScore]:
    """One line a stage that had something to find, or that removed something."""
    due = rightly_removed(truth, outcome)
    by_key = {each.key: each for each in truth}
    planted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for kind in score_kinds(truth, outcome):
        planted[KIND[kind.kind].stage] += kind.planted
        found[KIND[kind.kind].stage] += kind.found
    removed: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for key, gone in outcome.removed.items():
        if KIND[by_key[key].kind].stage != "unscored":
            stage = stage_of(gone, by_key[key].pictured).name
            removed[stage] += 1
            right[stage] += key in due
    scores = [
        StageScore(s.name, planted[s.name], found[s.name], removed[s.name], right[s.name], s.goal)
        for s in STAGES
    ]
    return [score for score in scores if score.planted or score.removed]


def score_modes(curate: Path, truth: Sequence[Truth]) -> StageScore | None:
    """How tags by rollouts contradict what rows claim of their mode; None where no tagged row was
    mislabeled.
    """
    find, by_key = Finder(truth), {each.key: each for each in truth}
    files = sorted((curate / "tags").glob("*.parquet"))
    tags = {
        find(row_id, ()): mode
        for file in files
        for row_id, mode in _columns(file, "id", "mode")
        if mode in MODES
    }
    wrong = {key for key, each in by_key.items() if each.kind == "mislabeled_mode"} & tags.keys()
    against = {key for key, mode in tags.items() if key and mode != by_key[key].mode}
    return (
        StageScore(
            "mode labels",
            len(wrong),
            len(wrong & against),
            len(against),
            len(wrong & against),
            False,
        )
        if wrong
        else None
    )


def worst(scores: Iterable[StageScore]) -> float:
    """The smallest recall or precision of the stages that have a goal."""
    return min(score.worst for score in scores if score.goal)


def unexpected(kind: Kind, score: KindScore) -> bool:
    """Whether rows of the kind are where they do not belong."""
    return (
        score.found != score.planted if kind.stage not in ("", "unscored") else bool(score.others)
    )
