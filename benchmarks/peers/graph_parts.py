"""Parts of the actor graph as the benchmarks of the graph put them together; all of them are the
project's own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors.learner.group import LearnerGroup
from actors.learner.learner import LearnerSpec
from actors.rl_workers import RLWorkers
from actors.rollout.fleet import RolloutFleet
from actors.rollout.loop import Rollouts
from benchmarks.peers.command import errors_in_one_line
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.config.recipe import ClusterConfig, ModelConfig
from bimode.records import GenerationRequest, GenerationResult, Prompt, RolloutGroup
from bimode.rl.ledger import Ledger
from bimode.rl.scheduler import Lease, RefusedPrompt, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace

PATIENCE_S = 300.0
NO_CPUS = {"num_cpus": 0}  # of Ray's count: the machine's are shared as they come


@dataclass(frozen=True, slots=True)
class Figure:
    """What a benchmark of the graph has found: the figure, its goal, and the runs behind it."""

    name: str
    figure: float
    goal: str
    runs: dict[str, Any]


def run(description: str, rounds: int, benchmark: Callable[[int, Path], Figure]) -> None:
    """Parses the command line, runs `benchmark(rounds, folder)` in a Ray of its own, prints one
    line of JSON.
    """
    from cluster.session import connect

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds")
    found = parser.parse_args()
    with errors_in_one_line():
        with TemporaryDirectory() as folder, connect(ClusterConfig(object_store_mb=1024)):
            figure = benchmark(found.rounds, Path(folder))
        print(f"{figure.name}: {figure.figure:.3g} (goal {figure.goal})")
        print(
            json.dumps(
                {
                    "name": figure.name,
                    "figure": round(figure.figure, 3),
                    "goal": figure.goal,
                    "runs": figure.runs,
                }
            )
        )


@contextmanager
def open_graph(model_dir: Path, workers: int, worker: type | None = None) -> Iterator[RLWorkers]:
    """Rollout workers and a learner of one rank that is never trained: every version has the same
    weights.
    """
    learner = LearnerGroup(
        dict(NO_CPUS),
        1,
        LearnerSpec(
            model_dir, LearnerConfig(engine="torch"), OptimConfig(), total_steps=1, dtype="float32"
        ),
    )
    fleet = RolloutFleet(
        model_dir,
        ModelConfig(max_model_len=512),
        workers=workers,
        options=NO_CPUS,
        seed=0,
        sync="auto",
        worker=worker,
        timeout_s=PATIENCE_S,
    )
    with RLWorkers(fleet, learner, "auto", PATIENCE_S) as graph:
        learner.ready()
        graph.weights.catch_up()
        yield graph


class FixedTask:
    """Groups of which `requests_of` says what is asked; every reward is 0."""

    def __init__(self, requests_of: Callable[[int], list[GenerationRequest]]) -> None:
        self.requests_of = requests_of

    def prompt(self, group_id: int) -> Prompt:
        """Of its first request."""
        return self.requests_of(group_id)[0].prompt

    def requests(self, lease: Lease) -> list[GenerationRequest]:
        """Those of its groups."""
        return [request for group_id in lease.group_ids for request in self.requests_of(group_id)]

    def score(
        self, lease: Lease, results: Sequence[GenerationResult]
    ) -> list[ScoredGroup | RefusedPrompt]:
        """All wrong."""
        scored: list[ScoredGroup | RefusedPrompt] = []
        left = iter(results)
        for group_id in lease.group_ids:
            num_requests = len(self.requests_of(group_id))
            sampled = tuple(c for _ in range(num_requests) for c in next(left).completions)
            group = RolloutGroup(self.prompt(group_id), sampled, (0.0,) * len(sampled))
            scored.append(ScoredGroup(group_id, group, ()))
        return scored


def open_loop(
    graph: RLWorkers,
    folder: Path,
    requests_of: Callable[[int], list[GenerationRequest]],
    *,
    groups_per_step: int,
    lease_groups: int,
    max_staleness: int = 0,
) -> Rollouts:
    """The rollout loop over groups of which `requests_of` says what is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    task = FixedTask(requests_of)
    scheduler = RolloutScheduler(
        Ledger(folder / "ledger"),
        task.prompt,
        lambda group, step: True,
        num_prompts=1 << 30,
        groups_per_step=groups_per_step,
        lease_groups=lease_groups,
        max_staleness=max_staleness,
        may_filter=0,
    )
    return Rollouts(
        graph.fleet,
        graph.weights,
        scheduler,
        task,
        graph.loop,
        on_event=lambda line: print(line, file=sys.stderr),
        trace=Trace(folder / "trace.json"),
    )


def question(group_id: int, text: str) -> Prompt:
    """A question without an answer."""
    return Prompt(
        f"q{group_id}",
        question=text,
        images=(),
        answer="",
        verifier="",
        verifier_args="",
        task="",
        level="easy",
    )
