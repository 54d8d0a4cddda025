"""The rollout loop on real workers: equal batches whoever dies, weights that land in mid-response,
errors that surface.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError, StarvedError
from bimode.records import Prompt
from bimode.rl.ledger import FILE, read
from bimode.rl.scheduler import ScoredGroup
from pipelines.chaos import stall
from tests.actors import loops
from tests.actors.damage import RESUME_S, slow_to_resume
from tests.actors.loops import new_fleet, updates, wait_for
from tests.rollouts import paired

pytestmark = pytest.mark.ray

FIVE = (b"never looked at",) * 5  # images, one more than an engine takes
QUESTION = "digits : read the strip as one number . what is its remainder ?"
BPO = BpoConfig(prompts_per_step=4, group_size=3, max_tokens=40, rollout_workers=2)


def prompt_of(group_id: int, images: tuple[bytes, ...] = ()) -> Prompt:
    return replace(paired([1], [1]).prompt, id=f"q{group_id}", question=QUESTION, images=images)


@pytest.fixture(scope="module")
def real_fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """Two vLLM engines at version 0; tests that push weights come last."""
    fleet = new_fleet(text_model)
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(ray_local: Any, text_model: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two workers; for "simulated", where no token matters, new ones without vLLM."""
    from benchmarks.peers.simulated import PromptWorker

    if getattr(request, "param", "") != "simulated":
        yield request.getfixturevalue("real_fleet")
        return
    fleet = new_fleet(text_model, PromptWorker)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """Real, and never trained: every version has the same weights."""
    group = loops.new_learner(text_model)
    yield group
    group.close()


@pytest.fixture
def loop(fleet: Any, learner: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with updates(fleet, learner) as weights:

        def make(
            name: str = "run",
            bpo: BpoConfig = BPO,
            said: list[str] | None = None,
            prompt: Callable[[int], Prompt] = prompt_of,
            **settings: Any,
        ) -> Any:
            return loops.rollouts(weights, tmp_path / name, bpo, said, prompt=prompt, **settings)

        yield make


def bits(batch: Sequence[ScoredGroup]) -> list[Any]:
    """What a step depends on; NaN compared as text."""
    return [
        (
            d.group_id,
            [(c.token_ids_T, str(c.logprobs_T)) for c in (*d.group.completions, *d.probes)],
        )
        for d in batch
    ]


def test_a_worker_that_dies_costs_no_prompt_and_no_bit(
    ray_local: Any, fleet: Any, loop: Any, tmp_path: Path
) -> None:
    with loop("whole") as rollouts:
        whole = rollouts.batch(0)
    said: list[str] = []
    victim = fleet.workers[0]
    with loop("killed", said=said) as rollouts, ThreadPoolExecutor(1) as learner:
        batch = learner.submit(rollouts.batch, 0)
        wait_for(lambda: all(worker.leases for worker in fleet.workers))
        ray_local.kill(victim.actor)
        disturbed = batch.result()
    assert bits(disturbed) == bits(whole) and rollouts.lost == 1
    assert len(said) == 1 and said[0].startswith("rollout-0 died after ")
    assert said[0].endswith(": rollout-2 takes its place; its 2 questions go to another")
    found = read(tmp_path / "killed" / FILE)
    assert found.totals.counts()["generated"] == found.totals.started == 4
    again = [m for m in found.moves if m.get("why", "").startswith(f"{victim.name} died")]
    assert len(again) == 2


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_a_worker_that_does_not_answer_is_replaced(ray_local: Any, fleet: Any, loop: Any) -> None:
    said: list[str] = []
    for worker in fleet.workers:
        worker.timeout_s = 5.0
    fleet.workers[1].actor.__ray_call__.remote(stall)
    with loop(said=said) as rollouts:
        assert [d.group_id for d in rollouts.batch(0)] == [0, 1, 2, 3]
    line = "rollout-1 has not answered begin for 5 s: rollout-2 takes its place"
    assert len(said) == 1 and line in said[0]


def test_weights_land_while_responses_are_under_way(
    fleet: Any, loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of next to nothing: a response is cut by updates, goes on, and says which token came
    from which version.
    """
    monkeypatch.setattr("actors.rollout.loop.SLICE_S", 0.001)
    bpo = BPO.model_copy(update={"max_staleness": 2, "group_size": 1})
    trained: list[ScoredGroup] = []
    with loop(bpo=bpo) as rollouts:
        for version in range(6):
            batch = rollouts.batch(version)
            assert all(version - d.oldest <= 2 for d in batch)
            rollouts.mark_trained(batch, version)
            trained += batch
            rollouts.weights.push(version + 1)
    completions = [c for d in trained for c in d.group.completions]
    spans = [sorted(set(c.versions_T)) for c in completions]
    assert any(len(span) > 1 for span in spans), "no response saw an update"
    assert all(list(c.versions_T) == sorted(c.versions_T) for c in completions)
    assert all(len(c.token_ids_T) == len(c.logprobs_T) <= 40 for c in completions)
    assert not any(math.isnan(x) for c in completions for x in c.logprobs_T[c.num_forced :])
    assert len({d.group_id for d in trained}) == 24
    lines = (tmp_path / "run" / "trace.json").read_text().splitlines()[1:]
    events = [json.loads(line.rstrip(",")) for line in lines]
    leases = [(e["tid"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "lease"]
    overlap = [a for a in leases for b in leases if a[0] == b[0] and a[1] < b[1] < a[2]]
    assert overlap, "no worker had two leases under way"
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"learner"} < names <= {"learner", *(worker.name for worker in fleet.workers)}
    phases = {"prepare", "pause", "transfer", "verify", "resume"}
    assert {e["name"] for e in events if e["ph"] == "X"} >= {"lease", "learn"} | phases


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
@pytest.mark.parametrize("staleness", [0, 1])
def test_what_goes_wrong_in_a_worker_surfaces_where_the_learner_waits(
    loop: Any, staleness: int
) -> None:
    impossible = BPO.model_copy(update={"max_tokens": 1, "max_staleness": staleness})
    with (
        loop(str(staleness), impossible) as rollouts,
        pytest.raises(ConfigError, match="max_tokens = 1"),
    ):
        rollouts.batch(0)


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_refused_prompt_costs_itself_and_is_said_once(
    loop: Any, tmp_path: Path, staleness: int
) -> None:
    said: list[str] = []
    bpo = BPO.model_copy(update={"max_staleness": staleness})

    def prompt(group_id: int) -> Prompt:
        return prompt_of(group_id, FIVE if group_id in (1, 2) else ())

    with loop("run", bpo, said, prompt=prompt) as rollouts:
        batch = rollouts.batch(0)
        wait_for(lambda: rollouts.scheduler.refused == 2)  # a lease may still be under way
        stats = rollouts.mark_trained(batch, 0)
    group_ids = [d.group_id for d in batch]
    assert len(group_ids) == 4 and not {1, 2} & set(group_ids)
    assert staleness or group_ids == [0, 3, 4, 5]
    assert stats.refused == 2 and stats.dropped == stats.stale == stats.lost == 0
    line = "q{} is refused: 5 images, at most 4; the next question replaces it"
    assert sorted(said) == [line.format(k) for k in (1, 2)]
    assert read(tmp_path / "run" / FILE).totals.counts()["refused"] == 2


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_whose_every_prompt_is_refused_ends_in_a_line(loop: Any, staleness: int) -> None:
    bpo = BPO.model_copy(update={"max_staleness": staleness})
    said: list[str] = []

    def of_nine(group_id: int) -> Prompt:
        return prompt_of(group_id % 9, FIVE)

    line = r"^every question is refused \(9\); the last was q\d: 5 images, at most 4$"
    loop_of_nine = loop("run", bpo, said, prompt=of_nine, num_prompts=9)
    with loop_of_nine as rollouts, pytest.raises(StarvedError, match=line):
        rollouts.batch(0)
    assert len(said) == 5 and said[-1].endswith("(the ledger has further ones)")


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_workers_that_take_turns_with_the_learner_wait_for_it(fleet: Any, loop: Any) -> None:
    """The learner's time is theirs, in its own step, and not a wait for each other in the next;
    nor is it time of a weight update, though one of them be so slow with it that the other has
    answered everything before.
    """
    with loop() as rollouts:
        fleet.workers[1].actor.__ray_call__.remote(slow_to_resume)
        for version in range(3):
            batch, began = rollouts.batch(version), time.monotonic()
            time.sleep(1.0)  # the learner learns
            learned = time.monotonic() - began
            waits = rollouts.mark_trained(batch, version).waits
            rollouts.weights.push(version + 1)
            if version == 0:  # the first leases are in it
                continue
            assert waits.full == pytest.approx(learned, abs=0.3)
            assert waits.full + waits.learner <= waits.total + 0.01
            assert waits.rollouts <= waits.learner
            assert RESUME_S <= 2 * waits.stopped < 2 * RESUME_S


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_workers_join_and_leave_a_live_loop(fleet: Any, loop: Any, tmp_path: Path) -> None:
    """2 -> 3 -> 1: a worker that joins holds the live version, one that leaves has finished its
    leases, and no group is lost.
    """
    said = list[str]()
    bpo = BPO.model_copy(update={"lease": 1})
    with loop(bpo=bpo, said=said) as rollouts:
        for version, workers in enumerate([2, 3, 1]):
            rollouts.resize(workers)
            batch = rollouts.batch(version)
            wait_for(lambda: all(worker.is_ready for worker in fleet.workers))
            assert loops.versions(batch) == {version}
            stats = rollouts.mark_trained(batch, version)
            assert stats.lost == 0 and stats.waits.total > stats.waits.learner > 0
            rollouts.weights.push(version + 1)
        wait_for(lambda: len(fleet.workers) == 1)
        wait_for(lambda: len(rollouts._tasks) == 1)
    assert said[0] == "rollout-2 joins; rollout workers: 3"
    left = {"rollout-1 leaves; rollout workers: ", "rollout-2 leaves; rollout workers: "}
    assert {line[:-1] for line in said[1:]} == left and said[2].endswith("1")
    assert read(tmp_path / "run" / FILE).totals.counts()["trained"] == 12
