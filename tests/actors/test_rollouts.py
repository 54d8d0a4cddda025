"""The rollout loop on real workers: equal batches whoever dies, weights that land in mid-response,
errors that surface.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.common import LearnerConfig, OptimConfig
from bimode.config.recipe import ModelConfig
from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError, StarvedError
from bimode.records import Prompt
from bimode.rl.ledger import FILE, Ledger, read
from bimode.rl.scheduler import Lease, RolloutScheduler, ScoredGroup
from bimode.rl.timeline import Trace
from pipelines.bpo_steps import requests, scored_groups
from pipelines.chaos import stall
from tests.actors.damage import RESUME_S, slow_to_resume
from tests.rollouts import paired

pytestmark = pytest.mark.ray

FIVE = (b"never looked at",) * 5  # images, one more than an engine takes
QUESTION = "digits : read the strip as one number . what is its remainder ?"
BPO = BpoConfig(prompts_per_step=4, group_size=3, max_tokens=40, rollout_workers=2)


def prompt_of(group_id: int, images: tuple[bytes, ...] = ()) -> Prompt:
    return replace(paired([1], [1]).prompt, id=f"q{group_id}", question=QUESTION, images=images)


def open_fleet(model_dir: Path, worker: type | None = None) -> Any:
    from actors.rollout.fleet import RolloutFleet

    return RolloutFleet(
        model_dir,
        ModelConfig(max_model_len=128),
        workers=2,
        options={"num_cpus": 0},
        seed=0,
        sync="object_store",
        worker=worker,
        timeout_s=600.0,
    )


@pytest.fixture(scope="module")
def real_fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """Two vLLM engines at version 0; tests that publish weights come last."""
    fleet = open_fleet(text_model)
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(ray_local: Any, text_model: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two workers; for "simulated", where no token matters, new ones without vLLM."""
    from benchmarks.peers.simulated import PromptWorker

    if getattr(request, "param", "") != "simulated":
        yield request.getfixturevalue("real_fleet")
        return
    fleet = open_fleet(text_model, PromptWorker)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """Real, and never trained: every version has the same weights."""
    from actors.learner.group import LearnerGroup

    group = LearnerGroup(
        {"num_cpus": 0},
        1,
        model_dir=text_model,
        learner=LearnerConfig(engine="torch"),
        optim=OptimConfig(),
        total_steps=9,
        dtype="float32",
        seed=0,
        with_reference=False,
    )
    yield group
    group.close()


@pytest.fixture
def loop(fleet: Any, learner: Any, tmp_path: Path) -> Callable[..., Any]:
    from actors.rollout.loop import Rollouts

    def make(
        name: str = "run",
        bpo: BpoConfig = BPO,
        said: list[str] | None = None,
        wanted: Callable[[], int] = lambda: 2,
        prompt: Callable[[int], Prompt] = prompt_of,
        num_prompts: int = 1 << 30,
    ) -> Rollouts:
        def asked(lease: Lease) -> list[tuple[int, Prompt]]:
            return [(group_id, prompt(group_id)) for group_id in lease.group_ids]

        scheduler = RolloutScheduler(
            Ledger(tmp_path / name),
            prompt,
            lambda group, step: True,
            num_prompts=num_prompts,
            groups_per_step=bpo.prompts_per_step,
            lease_groups=bpo.lease_groups,
            max_staleness=bpo.max_staleness,
            may_filter=0,
            leases_in_flight=bpo.leases_in_flight,
        )
        return Rollouts(
            fleet,
            learner,
            scheduler,
            lambda lease: requests(asked(lease), bpo, 0),
            lambda lease, results: scored_groups(asked(lease), bpo, results, {}),
            sync_timeout_s=600.0,
            wanted=wanted,
            on_event=(said if said is not None else []).append,
            trace=Trace(tmp_path / "trace.json"),
        )

    return make


def bits(batch: Sequence[ScoredGroup]) -> list[Any]:
    """What a step depends on; NaN compared as text."""
    return [
        (
            d.group_id,
            [(c.token_ids_T, str(c.logprobs_T)) for c in (*d.group.completions, *d.probes)],
        )
        for d in batch
    ]


def test_a_worker_that_dies_costs_no_question_and_no_bit(
    ray_local: Any, fleet: Any, loop: Any, tmp_path: Path
) -> None:
    fleet.assert_version(0)
    with loop("whole") as rollouts:
        whole = rollouts.batch(0)
    said: list[str] = []
    with loop("killed", said=said) as rollouts:
        rollouts.step()  # both have a lease now
        victim = fleet.workers[0]
        ray_local.kill(victim.actor)
        disturbed = rollouts.batch(0)
    assert bits(disturbed) == bits(whole) and rollouts.lost == 1
    assert len(said) == 1 and said[0].startswith("rollout-0 died after ")
    assert said[0].endswith(": rollout-2 takes its place; its 2 questions go to another")
    found = read(tmp_path / "killed" / FILE)
    assert found.totals.counts()["generated"] == found.totals.scored == 4
    assert [
        m["group_id"] for m in found.moves if m.get("why", "").startswith(f"{victim.name} died")
    ] == [0, 1]


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_a_worker_that_falls_silent_is_replaced(ray_local: Any, fleet: Any, loop: Any) -> None:
    fleet.assert_version(0)
    said: list[str] = []
    fleet.timeout_s = 5.0
    with loop(said=said) as rollouts:
        fleet.workers[
            1
        ].machine = ""  # or that would be the call that it does not answer, and the other did all
        fleet.workers[1].actor.__ray_call__.remote(stall)
        assert [d.group_id for d in rollouts.batch(0)] == [0, 1, 2, 3]
    assert (
        len(said) == 1
        and "rollout-1 has not answered begin for 5 s: rollout-2 takes its place" in said[0]
    )


def test_weights_land_while_responses_are_under_way(fleet: Any, loop: Any, tmp_path: Path) -> None:
    """Slices of next to nothing: a response is cut by updates, goes on, and says which token came
    from which version.
    """
    bpo = BPO.model_copy(update={"max_staleness": 2, "group_size": 1})
    mark_trained: list[ScoredGroup] = []
    with loop(bpo=bpo) as rollouts, pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.rollout.loop.SLICE_S", 0.001)
        for version in range(6):
            batch = rollouts.batch(version)
            assert all(version - d.oldest <= 2 for d in batch)
            rollouts.mark_trained(batch, version)
            mark_trained += batch
            fleet.version = version + 1
    spans = [sorted(set(c.versions_T)) for d in mark_trained for c in d.group.completions]
    assert any(len(span) > 1 for span in spans), "no response saw an update"
    assert all(
        list(c.versions_T) == sorted(c.versions_T)
        for d in mark_trained
        for c in d.group.completions
    )
    assert all(
        len(c.token_ids_T) == len(c.logprobs_T) <= 40
        for d in mark_trained
        for c in d.group.completions
    )
    assert not any(
        math.isnan(x)
        for d in mark_trained
        for c in d.group.completions
        for x in c.logprobs_T[c.num_forced :]
    )
    assert len({d.group_id for d in mark_trained}) == 24
    events = [
        json.loads(line.rstrip(","))
        for line in (tmp_path / "trace.json").read_text().splitlines()[1:]
    ]
    spans = [(e["tid"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "lease"]
    assert any(a[0] == b[0] and a[1] < b[1] < a[2] for a in spans for b in spans), (
        "no worker had two leases under way"
    )
    names = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"learner"} < names <= {"learner", *(m.name for m in fleet.workers)}
    assert {e["name"] for e in events if e["ph"] == "X"} >= {
        "lease",
        "learn",
        "pause",
        "transfer",
        "verify",
        "resume",
    }


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_what_goes_wrong_in_a_worker_surfaces_where_the_learner_waits(loop: Any) -> None:
    for staleness in (0, 1):
        impossible = BPO.model_copy(update={"max_tokens": 1, "max_staleness": staleness})
        with (
            loop(str(staleness), impossible) as rollouts,
            pytest.raises(ConfigError, match="max_tokens = 1"),
        ):
            rollouts.batch(0)


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_refused_question_costs_itself_and_is_said_once(
    loop: Any, tmp_path: Path, staleness: int
) -> None:
    said: list[str] = []
    bpo = BPO.model_copy(update={"max_staleness": staleness})

    def prompt(group_id: int) -> Prompt:
        return prompt_of(group_id, FIVE if group_id in (1, 2) else ())

    with loop("run", bpo, said, prompt=prompt) as rollouts:
        batch = rollouts.batch(0)
        until = time.monotonic() + 60  # at staleness 1 a lease may still be under way
        while rollouts.scheduler.refused < 2 and time.monotonic() < until:
            time.sleep(0.05)
        ended = rollouts.mark_trained(batch, 0)
    group_ids = [d.group_id for d in batch]
    assert (
        len(group_ids) == 4
        and not {1, 2} & set(group_ids)
        and (staleness or group_ids == [0, 3, 4, 5])
    )
    assert ended.refused == 2 and ended.dropped == ended.stale == ended.lost == 0
    assert sorted(said) == [
        f"q{k} is refused: 5 images, at most 4; the next question replaces it" for k in (1, 2)
    ]
    assert read(tmp_path / "run" / FILE).totals.counts()["refused"] == 2


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_whose_every_question_is_refused_ends_in_a_line(loop: Any, staleness: int) -> None:
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
    """The time of an update is theirs, in its own step, and not a wait for each other in the next;
    nor is it time of a weight update, though one of them be so slow with it that the other has
    answered everything before.
    """
    with loop() as rollouts:
        fleet.workers[1].actor.__ray_call__.remote(slow_to_resume)
        while not all(member.has_answered for member in fleet.workers):
            rollouts.step()
        for version in range(3):
            batch, began = rollouts.batch(version), time.monotonic()
            time.sleep(1.0)  # the learner learns
            waits, learnt = rollouts.mark_trained(batch, version).waits, time.monotonic() - began
            fleet.version = version + 1
            if version == 0:  # the rounds above are in it
                continue
            assert (
                waits.full == pytest.approx(learnt, abs=0.1)
                and waits.full + waits.learner <= waits.total + 0.01
            )
            assert waits.rollouts <= waits.learner and RESUME_S <= 2 * waits.stopped < 2 * RESUME_S


@pytest.mark.parametrize("fleet", ["simulated"], indirect=True)
def test_workers_join_and_leave_a_live_loop(fleet: Any, loop: Any, tmp_path: Path) -> None:
    """2 -> 3 -> 1: the newcomer holds the live version, who leaves has finished, and no group is
    lost.
    """
    said, size = list[str](), [2]
    bpo = BPO.model_copy(update={"lease": 1})
    with loop(bpo=bpo, said=said, wanted=lambda: size[0]) as rollouts:
        for version, workers in enumerate([2, 3, 1]):
            size[0] = workers
            batch = rollouts.batch(version)
            assert {v for d in batch for c in d.group.completions for v in c.versions_T} == {
                version
            }
            ended = rollouts.mark_trained(batch, version)
            assert ended.lost == 0 and ended.waits.total > ended.waits.learner > 0
            fleet.version = version + 1
        rollouts.step()
    assert len(fleet.workers) == 1 and set(rollouts._leases) <= set(fleet.workers), (
        "nothing holds who has left"
    )
    assert said == [
        "rollout-2 joins; rollout workers: 3",
        "rollout-1 leaves; rollout workers: 2",
        "rollout-2 leaves; rollout workers: 1",
    ]
    assert read(tmp_path / "run" / FILE).totals.counts()["trained"] == 12
