"""Where the rows of a curation went: what each step left of what was read, and why; what each
source gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_curation.checks.validate import REASONS

if TYPE_CHECKING:
    from data_curation.store import Store

CHECKED = "checked and filtered"
STEPS = {
    "read": (),
    CHECKED: (),  # every reason that is no later step's
    "after dedup": ("duplicate_id", "duplicate", "other_answer", "near_duplicate"),
    "after decontamination": ("contaminated",),
    "in the fold": ("other_fold",),
    "after tags and traces": (
        "trained_on",
        "needs_judge",
        "judge_failed",
        "judge_unclear",
        "rollout_failed",
        "untagged",
        "no_trace",
        "forbidden_phrase",
        "looping_trace",
        "inconsistent_trace",
        "wrong_step",
        "template_trace",
    ),
    "selected": ("mix",),
}
LATER = {reason: step for step, reasons in STEPS.items() for reason in reasons}


@dataclass(frozen=True, slots=True)
class Step:
    """What a step left and what it took, e.g. ``Step("after dedup", 970, {"duplicate": 20,
    "near_duplicate": 10})``.
    """

    name: str
    left: int
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SourceCount:
    """One source, e.g. ``SourceCount("scikit-learn/load_digits", "CC-BY-4.0", read=600,
    kept=590)``.
    """

    source: str
    license: str
    read: int
    kept: int


def funnel(reasons: Mapping[str, int]) -> tuple[Step, ...]:
    """The steps in order, from rows by reason ("" for those that are in). A step that took nothing
    is there all the same.
    """
    left, steps = sum(reasons.values()), []
    place = {reason: at for at, reason in enumerate(REASONS)}
    for name in STEPS:
        lost = {
            reason: n
            for reason, n in reasons.items()
            if reason and LATER.get(reason, CHECKED) == name
        }
        left -= sum(lost.values())
        steps.append(
            Step(
                name,
                left,
                dict(sorted(lost.items(), key=lambda item: place.get(item[0], len(place)))),
            )
        )
    return tuple(steps)


def source_counts(store: Store) -> tuple[SourceCount, ...]:
    """Count the read and kept records of each source and license. Records that could not be read
    have no source; they are counted under the empty name.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for (source, license, kept), n in store.counts(
        ["source", "source_license", "reason = ''"]
    ).items():
        of_source = found.setdefault((source or "", license or ""), [0, 0])
        of_source[0] += n
        of_source[1] += n * kept
    return tuple(SourceCount(*name, *counts) for name, counts in sorted(found.items()))
