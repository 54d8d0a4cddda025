"""What the starting policy earns on each question: the baseline of algorithms that compare with it
(AdaptThink).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bimode import algorithms
from bimode.config.recipe import Recipe
from bimode.config.rl import BpoConfig
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt, RolloutGroup
from bimode.rl.credit import correctness, shaped
from bimode.rl.rollout_task import item_of

if TYPE_CHECKING:
    from actors.rl_workers import RLWorkers

FILE = "reference.parquet"


def reference_rewards(
    workers: RLWorkers, prompts: Sequence[Prompt], recipe: Recipe, path: Path
) -> dict[str, float]:
    """Return the mean reward by prompt id of `Algorithm.reference_samples` completions in auto
    mode; empty if the algorithm needs none. A prompt that the engine refuses has none.

    `workers` hold the policy that the run started from. Kept in the stage's folder `path`, so drawn
    once per run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, bpo = algorithms.load(recipe.bpo.algorithm).reference_samples, recipe.bpo
    if not n:
        return {}
    if not (path / FILE).is_file():
        rewards = _rewards(workers, _asked(prompts, bpo, recipe.seed), n, recipe)
        if None in rewards.values():  # any question may replace a refused one
            rest = [prompt for prompt in prompts if prompt.id not in rewards]
            rewards |= _rewards(workers, rest, n, recipe)
        rewards = {name: reward for name, reward in rewards.items() if reward is not None}
        table = pa.table(
            {"prompt_id": list(rewards), "reward": pa.array(rewards.values(), pa.float64())}
        )
        pq.write_table(table, path / f".partial-{FILE}")
        (path / f".partial-{FILE}").replace(path / FILE)
    kept = pq.read_table(path / FILE)
    return dict(zip(kept["prompt_id"].to_pylist(), kept["reward"].to_pylist(), strict=True))


def _rewards(
    workers: RLWorkers, asked: Sequence[Prompt], n: int, recipe: Recipe
) -> dict[str, float | None]:
    """Return the mean reward by prompt id; None for a prompt that will be refused when it is
    drawn.
    """
    bpo = recipe.bpo
    requests = [
        GenerationRequest(p, Mode.AUTO, n, bpo.temperature, bpo.max_tokens, seed=recipe.seed + i)
        for i, p in enumerate(asked)
    ]
    rewards: dict[str, float | None] = {}
    for prompt, result in zip(asked, workers.generate(requests), strict=True):
        rewards[prompt.id] = None
        if not result.refused:
            with suppress(ValueError):  # an answer that cannot be judged
                rewards[prompt.id] = _mean_reward(prompt, result.completions, bpo)
    return rewards


def _asked(prompts: Sequence[Prompt], bpo: BpoConfig, seed: int) -> list[Prompt]:
    """Return the prompts that the run will draw: those of its batches, or all if groups may be
    replaced.
    """
    if bpo.resample or bpo.max_staleness:
        return list(prompts)
    sampled = (
        prompts[item_of(group_id, len(prompts), seed)]
        for group_id in range(bpo.steps * bpo.prompts_per_step)
    )
    return list({p.id: p for p in sampled}.values())


def _mean_reward(prompt: Prompt, completions: tuple[Completion, ...], bpo: BpoConfig) -> float:
    group = RolloutGroup(prompt, completions, tuple(correctness(c, prompt) for c in completions))
    return shaped(group, bpo).mean_reward(Mode.AUTO)
