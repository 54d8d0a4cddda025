"""The work that both sides are given: prompts in groups, a length for each response, responses and
rewards; as one JSON file.

Lengths are those of bi-mode rollouts: one half of each group answers directly, the other thinks.
Means are an eighth of what R-4B's model needs in its two forced modes (arXiv 2508.21113, Figure 7,
mean of six benchmarks: 166 and 760 tokens), drawn from log-normal distributions whose spread is
ours. Standard library only.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECT_MEAN, THINKING_MEAN = 166 / 8, 760 / 8  # tokens
SIGMA = 0.6  # of the logarithm (ours): the longest of 24 is then about three times the mean
LONGEST = 384  # tokens; longer draws are cut
MICRO_BATCH = 8  # sequences: TRL's default


@dataclass(frozen=True, slots=True)
class Workload:
    """One batch. Completions lie group by group: `group` of them for each prompt, the first half
    direct.
    """

    group: int
    questions: tuple[str, ...]
    prompt_texts: tuple[str, ...]  # through the chat template, up to and with <think>
    prompt_ids: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]  # tokens of each response
    responses: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of all completions, without padding."""
        return sum(self.lengths) + self.group * sum(map(len, self.prompt_ids))

    @property
    def padded(self) -> int:
        """The same as a rectangle: every prompt and every response as long as the longest."""
        return len(self.lengths) * self.width

    @property
    def width(self) -> int:
        """Tokens of a row of that rectangle."""
        return max(map(len, self.prompt_ids)) + max(self.lengths)

    def save(self, folder: Path) -> None:
        (folder / "workload.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(folder: Path) -> Workload:
        raw = json.loads((folder / "workload.json").read_text())
        for name in ("questions", "prompt_texts", "lengths", "rewards"):
            raw[name] = tuple(raw[name])
        for name in ("prompt_ids", "responses"):
            raw[name] = tuple(map(tuple, raw[name]))
        return Workload(**raw)


def draw_lengths(prompts: int, group: int, dice: random.Random) -> tuple[int, ...]:
    """Response lengths, group by group: the first half direct, the second thinking."""

    def length(mean: float) -> int:
        return min(
            max(round(dice.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA)), 2), LONGEST
        )

    halves = (DIRECT_MEAN,) * (group // 2) + (THINKING_MEAN,) * (group - group // 2)
    return tuple(length(mean) for _ in range(prompts) for mean in halves)
