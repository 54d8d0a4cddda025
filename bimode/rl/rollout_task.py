"""The task of the rollout workers in BPO: prompts, requests, scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bimode.config.rl import BpoConfig
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult, Prompt, RolloutGroup
from bimode.rl.credit import correctness, informative, modes_drawn, shaped
from bimode.rl.scheduler import Lease, RefusedPrompt, ScoredGroup


def item_of(group_id: int, num_items: int, seed: int) -> int:
    """Return the index of a group's prompt among `num_items`: epochs are permutations of all
    prompts, one after the other. A pure function of the seed: a resumed run draws the same ones.
    """
    epoch, offset = divmod(group_id, num_items)
    return int(_permutation(num_items, epoch, seed)[offset])


@lru_cache(maxsize=4)
def _permutation(num_items: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_items)


Asked = Sequence[tuple[int, Prompt]]  # groups with their prompts


class RolloutTask:
    """The prompts of a run in their order, its requests, scoring and credit settings.

    `references` holds the starting policy's mean reward by prompt id, where the algorithm compares
    with it.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        bpo: BpoConfig,
        seed: int,
        references: Mapping[str, float],
    ) -> None:
        self.prompts, self.bpo, self.seed, self.references = prompts, bpo, seed, references

    @property
    def num_prompts(self) -> int:
        """The number of different prompts, by id."""
        return len({prompt.id for prompt in self.prompts})

    def prompt(self, group_id: int) -> Prompt:
        """Return the prompt of a group. The order depends on the seed only, so a resumed run draws
        the same prompts.
        """
        return self.prompts[item_of(group_id, len(self.prompts), self.seed)]

    def requests(self, lease: Lease) -> list[GenerationRequest]:
        """Return the requests of a lease."""
        return requests(self._asked(lease), self.bpo.at(lease.step), self.seed)

    def score(
        self, lease: Lease, results: Sequence[GenerationResult]
    ) -> list[ScoredGroup | RefusedPrompt]:
        """Return the results of those requests as groups, in the order of the lease."""
        return scored_groups(self._asked(lease), self.bpo.at(lease.step), results, self.references)

    def has_credit(self, group: RolloutGroup, step: int) -> bool:
        """Whether an update would learn anything from `group`."""
        bpo = self.bpo.at(step)
        return informative(shaped(group, bpo), bpo)

    def _asked(self, lease: Lease) -> Asked:
        return [(group_id, self.prompt(group_id)) for group_id in lease.group_ids]


def requests(asked: Asked, bpo: BpoConfig, seed: int) -> list[GenerationRequest]:
    """Return the requests of groups, then the probes: the bare decision in auto mode, `group_size`
    times, if no rollout shows it.

    A probe is one token long; they show the think rate (R-4B, Figure 8) and are not trained on.
    """
    wanted = [
        GenerationRequest(
            prompt, mode, n, bpo.temperature, bpo.max_tokens, seed=_seed(seed, group_id)
        )
        for group_id, prompt in asked
        for mode, n in modes_drawn(bpo)
    ]
    probing = [
        GenerationRequest(
            prompt, Mode.AUTO, _probes(bpo), bpo.temperature, 1, seed=_seed(seed, group_id)
        )
        for group_id, prompt in asked
        if _probes(bpo)
    ]
    return [*wanted, *probing]


def scored_groups(
    asked: Asked,
    bpo: BpoConfig,
    results: Sequence[GenerationResult],
    references: Mapping[str, float],
) -> list[ScoredGroup | RefusedPrompt]:
    """Return the results of `requests` as groups with correctness as their reward, each with the
    probes of its prompt. A prompt that the engine refuses, or whose answer no verifier can judge,
    is a RefusedPrompt.
    """
    left = iter(results)
    per_group = len(modes_drawn(bpo))
    groups = [tuple(islice(left, per_group)) for _ in asked]
    probes = [next(left).completions if _probes(bpo) else () for _ in asked]
    found: list[ScoredGroup | RefusedPrompt] = []
    for (group_id, prompt), group, probe in zip(asked, groups, probes, strict=True):
        if why := group[0].refused:  # as all requests for the same prompt are
            found.append(RefusedPrompt(group_id, why))
            continue
        completions = tuple(c for result in group for c in result.completions)
        try:
            found.append(ScoredGroup(group_id, _group(prompt, completions, references), probe))
        except (
            ValueError
        ) as error:  # of a row that curation has not seen: a verifier that does not exist
            found.append(RefusedPrompt(group_id, f"its answer cannot be judged: {error}"))
    return found


def _probes(bpo: BpoConfig) -> int:
    return 0 if any(mode is Mode.AUTO for mode, _ in modes_drawn(bpo)) else bpo.group_size


def _group(
    prompt: Prompt, completions: tuple[Completion, ...], references: Mapping[str, float]
) -> RolloutGroup:
    rewards_G = tuple(correctness(c, prompt) for c in completions)
    return RolloutGroup(prompt, completions, rewards_G, references.get(prompt.id, math.nan))


def _seed(seed: int, group_id: int) -> int:
    """Return the seed of a group's requests; the mode tells them apart
    (`actors.rollout.worker`).
    """
    return (seed * 1_000_003 + group_id) % (1 << 31)
