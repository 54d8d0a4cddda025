"""The verbs of `pipelines.bpo`: open the graph and its rollout loop, give credit, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.config.rl import BpoConfig
from bimode.errors import MismatchError
from bimode.grading.rewards import correctness, shaped
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult, Prompt, RolloutGroup
from bimode.rl.credit import CreditedBatch, assign, informative, modes_drawn, shuffle_rewards
from bimode.rl.duplicates import merge_duplicates
from bimode.rl.ledger import Ledger
from bimode.rl.loss import LossFn
from bimode.rl.prompt_order import item_of
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace
from bimode.rl.token_metrics import means_by_mode, metric_means
from pipelines.progress import log_line
from pipelines.scale import WorkerTarget

if TYPE_CHECKING:
    from actors.rl_workers import RLWorkers
    from actors.rollout.loop import Rollouts


def reserve_learner(recipe: Recipe) -> AbstractContextManager[dict[str, Any]]:
    """Room of its own for the learner group, over all of its restarts: ray.remote options of a
    rank.
    """
    from cluster.placement import plan, reserved

    _, learner = plan("bpo", recipe)
    return reserved(learner, lambda line: log_line(f"bpo: {line}"))


def rollout_room(recipe: Recipe) -> int:
    """How many rollout workers the cluster has room for now."""
    from cluster.placement import most_rollouts, node_resources

    return most_rollouts(recipe, node_resources())


def open_graph(recipe: Recipe, model_dir: Path, learner_options: dict[str, Any]) -> RLWorkers:
    """Starts the rollout workers where the recipe's placement says, and the learner group in its
    room (`reserve_learner`).
    """
    from actors.rl_workers import build_graph
    from cluster.placement import plan

    bpo = recipe.bpo
    rollout, _ = plan("bpo", recipe)
    return build_graph(
        model_dir,
        recipe.model,
        bpo.learner,
        bpo.optim,
        rollout_workers=bpo.rollout_workers,
        rollout_options=rollout.options(),
        learner_options=learner_options,
        sync=bpo.sync,
        worker_timeout_s=bpo.worker_timeout_s,
        sync_timeout_s=bpo.sync_timeout_s,
        total_steps=bpo.steps,
        with_reference=bpo.kl > 0,
        seed=recipe.seed,
    )


def open_rollouts(
    recipe: Recipe,
    graph: RLWorkers,
    prompts: Sequence[Prompt],
    references: Mapping[str, float],
    ledger: Ledger,
    stage: Path,
) -> Rollouts:
    """The loop that draws groups: which question comes when, what is asked of a worker, what an
    answer is worth.

    How many workers there are may be changed from outside (`pipelines.scale`), through the stage's
    folder `stage`. `references` holds the starting policy's mean reward by prompt id, where the
    algorithm wants it.
    """
    from actors.rollout.loop import Rollouts

    bpo = recipe.bpo
    size = WorkerTarget(stage, bpo, partial(rollout_room, recipe))

    def prompt_of(group_id: int) -> Prompt:
        return prompts[item_of(group_id, len(prompts), recipe.seed)]

    def requests_of(lease: Lease) -> list[GenerationRequest]:
        asked = [(group_id, prompt_of(group_id)) for group_id in lease.group_ids]
        return requests(asked, bpo.at(lease.step), recipe.seed)

    def judge(
        lease: Lease, results: Sequence[GenerationResult]
    ) -> list[ScoredGroup | RefusedPrompt]:
        asked = [(group_id, prompt_of(group_id)) for group_id in lease.group_ids]
        return scored_groups(asked, bpo.at(lease.step), results, references)

    return Rollouts(
        graph.fleet,
        graph.learner,
        open_scheduler(bpo, prompt_of, len({prompt.id for prompt in prompts}), ledger),
        requests_of,
        judge,
        sync_timeout_s=bpo.sync_timeout_s,
        wanted=size.wanted,
        record_step=size.record_step,
        on_event=lambda line: log_line(f"bpo: {line}"),
        trace=Trace(stage / "trace.json"),
    )


def open_scheduler(
    bpo: BpoConfig, prompt_of: Callable[[int], Prompt], num_prompts: int, ledger: Ledger
) -> RolloutScheduler:
    """The desk as the recipe wants it; `prompt_of` is the data order over `num_prompts` questions,
    counted by id.
    """
    return RolloutScheduler(
        ledger,
        prompt_of,
        lambda group, step: informative(shaped(group, bpo.at(step)), bpo.at(step)),
        num_prompts=num_prompts,
        groups_per_step=bpo.prompts_per_step,
        lease_groups=bpo.lease_groups,
        max_staleness=bpo.max_staleness,
        may_filter=bpo.resample * bpo.prompts_per_step,
        leases_in_flight=bpo.leases_in_flight,
    )


Asked = Sequence[tuple[int, Prompt]]  # groups with their questions


def requests(asked: Asked, bpo: BpoConfig, seed: int) -> list[GenerationRequest]:
    """Groups first, then the probes: the bare decision in auto mode, `group_size` times, where no
    rollout shows it.

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
    """The results of `requests` as groups with correctness as their reward, each with the probes of
    its question; a question that the engine refused, or whose answer no verifier can judge, is a
    RefusedTicket.
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


def credit(groups: Sequence[RolloutGroup], bpo: BpoConfig, seed: int) -> CreditedBatch:
    """The samples of one update, equal ones merged: rewards as the recipe shapes them and, in the
    control, dealt anew.
    """
    rewarded = [shaped(group, bpo) for group in groups]
    batch = assign(shuffle_rewards(rewarded, seed) if bpo.shuffle_rewards else rewarded, bpo)
    return replace(batch, samples=tuple(merge_duplicates(batch.samples)))


def update(
    graph: RLWorkers, batch: CreditedBatch, loss: LossFn, max_mismatch: float = math.inf
) -> dict[str, Any]:
    """One optimizer step on `batch`. Returns token means and step info.

    Raises MismatchError, and moves nothing, if engine and learner differ by more than
    `max_mismatch` (k3, nats a token).
    """
    sums = graph.learner.update(batch.samples, loss, num_tokens=batch.denominator)
    mismatch = metric_means(sums).get("mismatch", 0.0)
    if (
        mismatch > max_mismatch
    ):  # not a number is a loss that is none either: `optim_step` refuses it
        raise MismatchError(
            "the engine gives its own tokens other log-probabilities than the learner:"
            f" {mismatch:.2g} nats (k3) a token, bpo.max_mismatch is {max_mismatch:g} (k3 estimates"
            " the KL divergence between them). The model is computed wrongly on one side, or a"
            " weight update is incomplete"
        )
    info = graph.learner.optim_step()
    step = {"loss": sums.get("loss", 0.0), "grad_norm": info.grad_norm, "lr": info.lr}
    return metric_means(sums) | step | {"learner": means_by_mode(sums)}


def _group(
    prompt: Prompt, completions: tuple[Completion, ...], references: Mapping[str, float]
) -> RolloutGroup:
    rewards_G = tuple(correctness(c, prompt) for c in completions)
    return RolloutGroup(prompt, completions, rewards_G, references.get(prompt.id, math.nan))


def _seed(seed: int, group_id: int) -> int:
    """Of the requests of a group; the mode tells them apart (`actors.rollout.worker`)."""
    return (seed * 1_000_003 + group_id) % (1 << 31)
