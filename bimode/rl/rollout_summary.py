"""What a step's rollouts say, mode by mode and level by level: the rollout part of a line of
metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bimode.modes import Mode, parse_response
from bimode.records import Completion, RolloutGroup

ALL_LEVELS = "all"


@dataclass(frozen=True, slots=True)
class ModeMeans:
    """Means over the `n` completions of one mode and level. `accuracy` is the share with a reward
    of at least 1.
    """

    n: int
    reward: float
    accuracy: float
    tokens: float
    think_rate: float
    finished: float


@dataclass(frozen=True, slots=True)
class StepSummary:
    """`flat_groups` is the share of groups, taken by mode, whose rewards are all equal: no lesson
    within the mode.

    `means` is keyed by (mode, level), level ``all`` included.
    """

    versions: tuple[int, ...]
    groups: int
    flat_groups: float
    means: dict[tuple[Mode, str], ModeMeans]

    def to_json(self) -> dict[str, object]:
        """``{"versions", "groups", "flat_groups", "modes": {MODE: {LEVEL: {"n", "reward",
        ...}}}}``.
        """
        modes: dict[str, dict[str, object]] = {}
        for (mode, level), means in self.means.items():
            modes.setdefault(mode.value, {})[level] = asdict(means)
        return {
            "versions": list(self.versions),
            "groups": self.groups,
            "flat_groups": self.flat_groups,
            "modes": modes,
        }


def summarize(groups: Sequence[RolloutGroup]) -> StepSummary:
    """Summary of a step; call it before the rewards are shuffled, or the accuracies are those of
    the control.
    """
    cells: dict[tuple[Mode, str], list[tuple[Completion, float]]] = {}
    rewards: list[list[float]] = []
    for group in groups:
        scored = list(zip(group.completions, group.rewards_G, strict=True))
        for mode in Mode:
            here = [(c, r) for c, r in scored if c.mode is mode]
            if not here:
                continue
            rewards.append([r for _, r in here])
            for level in (ALL_LEVELS, group.prompt.level):
                cells.setdefault((mode, level), []).extend(here)
    return StepSummary(
        versions=tuple(sorted({v for g in groups for c in g.completions for v in c.versions_T})),
        groups=len(groups),
        flat_groups=sum(len(set(r)) == 1 for r in rewards) / max(len(rewards), 1),
        means={key: _means(cells[key]) for key in sorted(cells)},
    )


def _means(cell: Sequence[tuple[Completion, float]]) -> ModeMeans:
    rewards_N = np.array([r for _, r in cell])
    return ModeMeans(
        n=len(cell),
        reward=float(rewards_N.mean()),
        accuracy=float((rewards_N >= 1.0).mean()),
        tokens=float(np.mean([c.num_tokens for c, _ in cell])),
        think_rate=float(np.mean([parse_response(c.text).is_thinking for c, _ in cell])),
        finished=float(np.mean([c.finished for c, _ in cell])),
    )
