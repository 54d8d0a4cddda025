"""A fleet that no loop drives: who dies or is silent is named, replaced once, and its share is
answered as it would have been.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bimode.config.recipe import ModelConfig
from bimode.errors import WorkerLostError
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, GenerationResult
from pipelines.chaos import stall
from tests.actors.loops import new_fleet
from tests.rollouts import paired

pytestmark = pytest.mark.ray

PROMPT = replace(paired([1], [1]).prompt, question="what is 3 + 4 ?", images=())
REQUESTS = [
    GenerationRequest(replace(PROMPT, id=f"q{i}"), Mode.AUTO, 2, 1.0, 12, seed=i) for i in range(5)
]
MODEL = ModelConfig(max_model_len=128)


def flat(results: list[GenerationResult]) -> list[Completion]:
    return [completion for result in results for completion in result.completions]


@pytest.fixture
def fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """Two workers without vLLM, which may take two seconds for an answer."""
    from benchmarks.peers.simulated import PromptWorker

    fleet = new_fleet(text_model, PromptWorker, timeout_s=2.0)
    asyncio.run(fleet.ready())
    yield fleet
    fleet.close()


@pytest.mark.parametrize(
    ("damage", "says"),
    [("kill", "died after .* s"), ("stall", "has not answered .* for 2 s")],
)
def test_a_worker_that_is_lost_without_a_loop_is_named_and_replaced_once(
    ray_local: Any, fleet: Any, damage: str, says: str
) -> None:
    from actors.rollout.generate import generate

    def hit(worker: Any) -> None:
        if damage == "kill":
            ray_local.kill(worker.actor)
        else:
            worker.actor.__ray_call__.remote(stall)

    lost: list[str] = []

    async def successor(worker: Any, error: Exception) -> Any:
        lost.append(str(error))
        return fleet.replace(worker)

    async def doomed(worker: Any, error: Exception) -> Any:
        next_one = fleet.replace(worker)
        await next_one.ready()
        hit(next_one)
        return next_one

    whole = asyncio.run(generate(fleet, REQUESTS, 0))
    hit(fleet.workers[1])
    with pytest.raises(WorkerLostError, match=f"^rollout-1 {says}$"):
        asyncio.run(generate(fleet, REQUESTS, 0))
    again = asyncio.run(generate(fleet, REQUESTS, 0, successor))
    asked = [f"q{i}" for i in range(5) for _ in range(2)]
    assert [c.prompt_id for c in flat(again)] == [c.prompt_id for c in flat(whole)] == asked
    assert len(lost) == 1 and lost[0].startswith("rollout-1 ")
    hit(fleet.workers[1])
    line = f"^rollout-3 {says}, like the one before it that was asked the same 2 requests$"
    with pytest.raises(WorkerLostError, match=line):
        asyncio.run(generate(fleet, REQUESTS, 0, doomed))


@pytest.mark.parametrize(
    ("damage", "says"), [("kill", "died"), ("stall", "has not answered begin for 2 s")]
)
def test_workers_without_a_loop_say_which_does_not_answer(
    ray_local: Any, fleet: Any, damage: str, says: str
) -> None:
    from actors.rl_workers import RLWorkers

    nobody: Any = SimpleNamespace(close=lambda: None)
    victim = fleet.workers[1]
    with RLWorkers(fleet, nobody, "auto", 2.0) as workers:
        workers.weights.catch_up()
        if damage == "kill":
            ray_local.kill(victim.actor)
        else:
            victim.actor.__ray_call__.remote(stall)
        with pytest.raises(WorkerLostError, match=f"^rollout-1 {says}"):
            workers.generate(REQUESTS)


def test_an_evaluation_survives_a_dead_engine_with_the_same_answers(
    ray_local: Any, text_model: Path
) -> None:
    """Also one that holds the second model, which its successor's directory does not."""
    from actors.rollout.evaluator import Evaluator

    said: list[str] = []
    with Evaluator(
        MODEL, workers=2, options={"num_cpus": 0}, seed=0, timeout_s=60.0, on_event=said.append
    ) as evaluator:
        evaluator.open(text_model)
        evaluator.open(text_model)
        whole = evaluator.generate(REQUESTS)
        assert evaluator._fleet is not None
        ray_local.kill(evaluator._fleet.actors[0])
        again = evaluator.generate(REQUESTS)
        assert {v for c in flat(again) for v in c.versions_T} == {1}
    assert [c.token_ids_T for c in flat(again)] == [c.token_ids_T for c in flat(whole)]
    [line] = said
    assert re.fullmatch(
        r"rollout-0 died after .* s: rollout-2 takes its place and is asked the same", line
    )
