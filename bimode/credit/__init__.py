"""Credit: rewards of rollout groups in, weighted tokens with a sign out. The learner never hears an algorithm's name.

A new algorithm is one file with an `Algorithm`, one line in `ALGORITHMS`, and its word in the recipe's schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bimode.config import BpoConfig
from bimode.credit.bpo import BPO
from bimode.credit.groups import Algorithm, TokenCredit, check
from bimode.credit.grpo import GRPO
from bimode.credit.per_mode import PER_MODE
from bimode.modes import Mode
from bimode.records import Completion, RolloutGroup, TrainingSample

ALGORITHMS: dict[str, Algorithm] = {"bpo": BPO, "grpo": GRPO, "per_mode": PER_MODE}


def modes_drawn(config: BpoConfig) -> tuple[tuple[Mode, int], ...]:
    """What to draw for each prompt, e.g. ``((Mode.THINKING, 8), (Mode.NON_THINKING, 8))``."""
    return tuple((mode, multiple * config.group_size) for mode, multiple in ALGORITHMS[config.algorithm].draws)


def assign(groups: Sequence[RolloutGroup], config: BpoConfig) -> list[TrainingSample]:
    """Samples for the learner, group by group in the order of the completions.

    Raises IncompleteGroupError or StaleWeightsError for a group that is not exactly what `modes_drawn` asked for.
    """
    draws = modes_drawn(config)
    credit = ALGORITHMS[config.algorithm].credit
    samples = []
    for group in groups:
        check(group, draws)
        credits = credit(group, config)
        samples += [_sample(group, c, each) for c, each in zip(group.completions, credits, strict=True)]
    return samples


def shuffle_rewards(groups: Sequence[RolloutGroup], seed: int) -> list[RolloutGroup]:
    """Control: the rewards of a step dealt anew to its completions. What still changes was not taught by the reward."""
    flat = np.random.default_rng(seed).permutation([r for group in groups for r in group.rewards_G]).tolist()
    dealt = iter(flat)
    return [dataclasses.replace(g, rewards_G=tuple(next(dealt) for _ in g.rewards_G)) for g in groups]


def _sample(group: RolloutGroup, completion: Completion, credit: TokenCredit) -> TrainingSample:
    return TrainingSample(
        prompt_ids=completion.prompt_ids,
        token_ids_T=completion.token_ids_T,
        loss_mask_T=tuple(credit.weights_T.tolist()),
        advantages_T=tuple(credit.advantages_T.tolist()),
        behavior_logprobs_T=completion.logprobs_T,
        images=group.prompt.images,
        mode=completion.mode,
        origin=group.prompt.id,
        version=max(completion.versions_T),
        level=group.prompt.level,
    )
