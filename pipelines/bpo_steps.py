"""The verbs of `pipelines.bpo`: open the graph, collect a step's groups, give credit, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.bpo_config import BpoConfig
from bimode.config import Recipe
from bimode.credit import CreditedBatch, assign, informative, modes_drawn, shuffle_rewards
from bimode.credit.duplicates import merge_duplicates
from bimode.losses import LossFn
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt, RolloutGroup
from bimode.rewards import correctness, shaped
from bimode.token_metrics import means_by_mode, metric_means

if TYPE_CHECKING:
    from actors.graph import Graph


def open_graph(recipe: Recipe, model_dir: Path) -> Graph:
    """Starts the rollout workers and the learner group where the recipe's placement says."""
    from actors.graph import build_graph
    from cluster.placement import plan

    bpo = recipe.bpo
    rollout, learner = plan("bpo", recipe)
    return build_graph(
        model_dir,
        recipe.model,
        bpo.learner,
        bpo.optim,
        rollout_workers=bpo.rollout_workers,
        rollout_options=rollout.options(),
        learner_options=learner.options(),
        sync=bpo.sync,
        total_steps=bpo.steps,
        with_reference=bpo.kl > 0,
        seed=recipe.seed,
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Groups of a step with correctness as their reward, probes of the same prompts, and how many groups were dropped."""

    groups: list[RolloutGroup]
    probes: list[Completion]
    dropped: int


def collect(graph: Graph, prompts: Iterator[Prompt], bpo: BpoConfig, references: Mapping[str, float], seed: int) -> Drawn:
    """`bpo.prompts_per_step` groups of `prompts`, in their order.

    Where `bpo.resample` allows further rounds, groups that carry no credit give way to groups of the next prompts; those of
    the last round stay. `references` holds the starting policy's mean reward by prompt id, where the algorithm wants it.
    """
    groups: list[RolloutGroup] = []
    probes: list[Completion] = []
    asked = 0
    for rounds_left in reversed(range(bpo.resample + 1)):
        wanted = list(islice(prompts, bpo.prompts_per_step - len(groups)))
        for group, probe in _draw(graph, wanted, bpo, references, seed, asked):
            if not rounds_left or informative(shaped(group, bpo), bpo):
                groups.append(group)
                probes += probe
        asked += len(wanted)
        if len(groups) == bpo.prompts_per_step:
            break
    return Drawn(groups, probes, dropped=asked - len(groups))


def _draw(
    graph: Graph, prompts: Sequence[Prompt], bpo: BpoConfig, references: Mapping[str, float], seed: int, first: int
) -> list[tuple[RolloutGroup, list[Completion]]]:
    """The group of each prompt and its probes: the bare decision in auto, `group_size` times; seeds count from `first`.

    The probes are one token long; they show the think rate (R-4B, Figure 8) and are not trained on.
    """
    draws = modes_drawn(bpo)
    num_probes = 0 if any(mode is Mode.AUTO for mode, _ in draws) else bpo.group_size
    wanted = [
        GenerationRequest(p, mode, n, bpo.temperature, bpo.max_tokens, seed=_seed(seed, i, mode))
        for i, p in enumerate(prompts, first)
        for mode, n in draws
    ]
    probing = [
        GenerationRequest(p, Mode.AUTO, num_probes, bpo.temperature, 1, seed=_seed(seed, i, Mode.AUTO))
        for i, p in enumerate(prompts, first)
        if num_probes
    ]
    completions = iter(graph.generate([*wanted, *probing]))
    size = sum(n for _, n in draws)
    groups = [_group(p, tuple(islice(completions, size)), references) for p in prompts]
    return [(group, list(islice(completions, num_probes))) for group in groups]


def credit(groups: Sequence[RolloutGroup], bpo: BpoConfig, seed: int) -> CreditedBatch:
    """The samples of one update, equal ones merged: rewards as the recipe shapes them and, in the control, dealt anew."""
    rewarded = [shaped(group, bpo) for group in groups]
    batch = assign(shuffle_rewards(rewarded, seed) if bpo.shuffle_rewards else rewarded, bpo)
    return replace(batch, samples=tuple(merge_duplicates(batch.samples)))


def update(graph: Graph, batch: CreditedBatch, loss: LossFn) -> dict[str, Any]:
    """One optimizer step on `batch`. Returns token means and step info."""
    sums = graph.learner.update(batch.samples, loss, num_tokens=batch.denominator)
    info = graph.learner.optim_step()
    step = {"loss": sums.get("loss", 0.0), "grad_norm": info.grad_norm, "lr": info.lr}
    return metric_means(sums) | step | {"learner": means_by_mode(sums)}


def _group(prompt: Prompt, completions: tuple[Completion, ...], references: Mapping[str, float]) -> RolloutGroup:
    rewards_G = tuple(correctness(c, prompt) for c in completions)
    return RolloutGroup(prompt, completions, rewards_G, references.get(prompt.id, math.nan))


def _seed(seed: int, index: int, mode: Mode) -> int:
    return (seed * 1_000_003 + index * 31 + list(Mode).index(mode)) % (1 << 31)
