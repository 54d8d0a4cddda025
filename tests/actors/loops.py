"""A fleet, a learner and the rollout loop between them, for tests of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bimode.config.common import LearnerConfig, OptimConfig
from bimode.config.recipe import ModelConfig
from bimode.config.rl import BpoConfig
from bimode.records import GenerationRequest, GenerationResult, Prompt
from bimode.rl.ledger import Ledger
from bimode.rl.rollout_task import requests, scored_groups
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace
from tests.rollouts import paired

DEADLINE_S = 2.0


def prompt_of(group_id: int) -> Prompt:
    return replace(paired([1], [1]).prompt, id=f"q{group_id}", question="digits", images=())


class Task:
    """What a run asks, of any prompts."""

    def __init__(self, bpo: BpoConfig, prompt: Callable[[int], Prompt] = prompt_of) -> None:
        self.bpo, self.prompt = bpo, prompt

    def _asked(self, lease: Lease) -> list[tuple[int, Prompt]]:
        return [(group_id, self.prompt(group_id)) for group_id in lease.group_ids]

    def requests(self, lease: Lease) -> list[GenerationRequest]:
        return requests(self._asked(lease), self.bpo, 0)

    def score(
        self, lease: Lease, results: Sequence[GenerationResult]
    ) -> list[ScoredGroup | RefusedPrompt]:
        return scored_groups(self._asked(lease), self.bpo, results, {})


def new_learner(model_dir: Path) -> Any:
    from actors.learner.group import LearnerGroup
    from actors.learner.learner import LearnerSpec

    group = LearnerGroup(
        {"num_cpus": 0},
        1,
        LearnerSpec(
            model_dir, LearnerConfig(engine="torch"), OptimConfig(), total_steps=9, dtype="float32"
        ),
    )
    group.ready()
    return group


def new_fleet(
    model_dir: Path, worker: type | None = None, sync: str = "auto", timeout_s: float = 600.0
) -> Any:
    from actors.rollout.fleet import RolloutFleet

    return RolloutFleet(
        model_dir,
        ModelConfig(max_model_len=128),
        workers=2,
        options={"num_cpus": 0},
        seed=0,
        sync=sync,
        worker=worker,
        timeout_s=timeout_s,
    )


@contextmanager
def updates(fleet: Any, learner: Any, deadline_s: float = 600.0) -> Iterator[Any]:
    """Weight updates in an event loop of their own, to workers of any version."""
    from actors.event_loop import EventLoop
    from actors.weights.update import WeightUpdates, open_transport

    loop = EventLoop("test")
    weights = WeightUpdates(
        fleet, open_transport(fleet.sync, learner, deadline_s), deadline_s, loop
    )
    weights.version = max(worker.version for worker in fleet.workers)
    try:
        loop.run(fleet.ready())
        yield weights
    finally:
        loop.close()


@contextmanager
def rollouts(
    weights: Any,
    folder: Path,
    bpo: BpoConfig,
    said: list[str] | None = None,
    *,
    prompt: Callable[[int], Prompt] = prompt_of,
    num_prompts: int = 1 << 30,
) -> Iterator[Any]:
    """The rollout loop over the fleet of `weights`; `said` gets its lines."""
    from actors.rollout.loop import Rollouts

    task = Task(bpo, prompt)
    scheduler = RolloutScheduler(
        Ledger(folder),
        prompt,
        lambda group, step: True,
        num_prompts=num_prompts,
        groups_per_step=bpo.prompts_per_step,
        lease_groups=bpo.lease_groups,
        max_staleness=bpo.max_staleness,
        may_filter=0,
        leases_in_flight=bpo.leases_in_flight,
    )
    lines = said if said is not None else []
    trace = Trace(folder / "trace.json")
    with Rollouts(
        weights.fleet, weights, scheduler, task, weights._loop, on_event=lines.append, trace=trace
    ) as loop:
        yield loop


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def versions(batch: Sequence[ScoredGroup]) -> set[int]:
    return {v for d in batch for c in d.group.completions for v in c.versions_T}
