"""Each fault in each phase of a weight update: found within its deadline, said in one line, and the
run goes on.

Real actors, learner and protocol; the engines are simulated, since each fault costs one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.config.common import LearnerConfig, OptimConfig
from bimode.config.recipe import ModelConfig
from bimode.config.rl import BpoConfig
from bimode.errors import CorruptWeightsError, LearnerLostError
from bimode.records import Prompt
from bimode.rl.ledger import Ledger
from bimode.rl.scheduler import RolloutScheduler
from bimode.rl.timeline import Trace
from pipelines.bpo_steps import requests, scored_groups
from pipelines.chaos import corrupt, slow, stall
from tests.actors.damage import (
    as_it_was,
    at_resume,
    at_verify,
    die,
    export_slowly,
    holds_another_bucket,
    into_small_buckets,
    stall_at_third_bucket,
)
from tests.rollouts import paired

pytestmark = pytest.mark.ray

BPO = BpoConfig(prompts_per_step=2, group_size=2, max_tokens=20, rollout_workers=2)
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path) -> Iterator[Any]:
    group = new_learner(text_model)
    yield group
    group.close()


def new_learner(model_dir: Path) -> Any:
    from actors.learner.group import LearnerGroup

    group = LearnerGroup(
        {"num_cpus": 0},
        1,
        model_dir=model_dir,
        learner=LearnerConfig(engine="torch"),
        optim=OptimConfig(),
        total_steps=9,
        dtype="float32",
        seed=0,
        with_reference=False,
    )
    group.ready()
    return group


@pytest.fixture(scope="module")
def fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    from actors.rollout.fleet import RolloutFleet
    from benchmarks.peers.simulated import PromptWorker

    fleet = RolloutFleet(
        text_model,
        ModelConfig(max_model_len=128),
        workers=2,
        options={"num_cpus": 0},
        seed=0,
        sync="object_store",
        worker=PromptWorker,
    )
    yield fleet
    fleet.close()


@pytest.fixture
def loop(fleet: Any, learner: Any, tmp_path: Path) -> Callable[..., Any]:
    from actors.rollout.loop import Rollouts
    from actors.weights.update import WeightSync

    WeightSync(fleet, learner, 60.0).catch_up()

    def prompt_of(group_id: int) -> Prompt:
        return replace(paired([1], [1]).prompt, id=f"q{group_id}", question="digits", images=())

    def make(said: list[str], by: Any = learner, max_staleness: int = 0) -> Rollouts:
        scheduler = RolloutScheduler(
            Ledger(tmp_path / "ledger"),
            prompt_of,
            lambda group, step: True,
            num_prompts=1 << 30,
            groups_per_step=2,
            lease_groups=1,
            max_staleness=max_staleness,
            may_filter=0,
        )
        return Rollouts(
            fleet,
            by,
            scheduler,
            lambda lease: requests([(t, prompt_of(t)) for t in lease.group_ids], BPO, 0),
            lambda lease, results: scored_groups(
                [(t, prompt_of(t)) for t in lease.group_ids], BPO, results, {}
            ),
            sync_timeout_s=DEADLINE_S,
            wanted=lambda: 2,
            on_event=said.append,
            trace=Trace(tmp_path / "trace.json"),
        )

    return make


def held(batch: Any) -> set[int]:
    return {v for d in batch for c in d.group.completions for v in c.versions_T}


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "late-pause": (stall, "is late: phase pause of version {} is not over after 2 s"),
    "late-transfer": (slow, "is late: phase transfer of version {} is not over after 2 s"),
    "late-verify": (at_verify(stall), "is late: phase verify of version {} is not over after 2 s"),
    "late-resume": (at_resume(stall), "is late: phase resume of version {} is not over after 2 s"),
    "dead-resume": (at_resume(die), "died in phase resume of version {} after"),
    "wrong-transfer": (corrupt, "is not trusted in phase transfer of version {} after"),
    "wrong-verify": (holds_another_bucket, "is not trusted in phase verify of version {} after"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_worker(name: str, ray_local: Any, fleet: Any, loop: Any) -> None:
    damage, says = FAULTS[name]
    said, times = list[str](), list[float]()
    victim, version = fleet.workers[0], fleet.version + 1
    with loop(said) as rollouts:
        if name == "late-pause":  # it is asked for a slice, and does not end it
            victim.actor.__ray_call__.remote(damage)
            victim.call("advance", 0.0)
        else:
            ray_local.get(victim.actor.__ray_call__.remote(damage))
        fleet.version = version
        rollouts.on_event = lambda line: (said.append(line), times.append(time.monotonic()))
        began = time.monotonic()
        batch = rollouts.batch(0)
        while not said:
            rollouts.step()
    assert held(batch) == {version}
    assert len(said) == 1 and said[0].startswith(f"{victim.name} {says.format(version)}")
    assert said[0].endswith("takes its place") and victim not in fleet.workers
    assert times[0] - began < (DEADLINE_S + 1 if name.startswith("late") else 1)


def test_weights_that_are_damaged_at_every_worker_end_the_run(
    ray_local: Any, fleet: Any, learner: Any, loop: Any
) -> None:
    """Then it is the sender: replacing workers without end would help nobody."""
    from actors.weights.update import WeightSync

    said: list[str] = []
    with loop(said) as rollouts, pytest.raises(CorruptWeightsError, match="damaged"):
        fleet.version += 1
        rollouts._learner_waits = True
        struck, until = set[Any](), time.monotonic() + 120
        while time.monotonic() < until:
            for member in {*fleet.workers} - struck:
                member.actor.__ray_call__.remote(corrupt)  # comes before any weights
                struck.add(member)
            rollouts.step()
    assert len(said) == 3
    for member in list(fleet.workers):
        fleet.replace(member)
    WeightSync(fleet, learner, 60.0).catch_up()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (stall_at_third_bucket, "the learner: phase prepare of version"),
        (die, "a rank of the learner"),
    ],
)
def test_a_fault_of_the_learner(
    damage: Any, says: str, fleet: Any, loop: Any, text_model: Path
) -> None:
    """It ends the loop in one line; `pipelines.bpo` starts the learner again."""
    other = new_learner(text_model)
    said: list[str] = []
    try:
        other.ranks[0].__ray_call__.remote(damage)
        with loop(said, other) as rollouts, pytest.raises(LearnerLostError, match=says):
            fleet.version += 1
            rollouts.batch(0)
        assert not said, "no worker is to blame"
    finally:
        other.close()


@pytest.fixture
def changed_learner(
    ray_local: Any, learner: Any
) -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """Changes the learner's only rank, for one test; returns the learner."""

    def change(how: Callable[[Any], Any]) -> Any:
        ray_local.get(learner.ranks[0].__ray_call__.remote(how))
        vars(learner).pop("outlet", None)
        return learner

    yield change
    change(as_it_was)


def test_a_version_goes_out_in_buckets(
    fleet: Any, changed_learner: Any, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small ones, of which a few are out of the learner at a time."""
    from actors.weights import update
    from bimode.storage import weights

    learner = changed_learner(into_small_buckets)
    assert learner.outlet.num_buckets > 4
    ahead: list[int] = []
    real = update.WeightStream.step

    def step(stream: Any) -> None:
        real(stream)
        ahead.append(len([b for b in stream._buckets if b is not None]))

    monkeypatch.setattr(update.WeightStream, "turn", step)
    fleet.version += 1
    said: list[str] = []
    with loop(said) as rollouts:
        assert held(rollouts.batch(0)) == {fleet.version}
    assert not said and max(ahead) <= update.WINDOW and weights.BUCKET_BYTES > 1 << 20


def test_generation_goes_on_while_the_learner_prepares(
    fleet: Any, changed_learner: Any, loop: Any
) -> None:
    """A learner that takes a second for its weights stops nobody for a second."""
    with loop([], max_staleness=1) as rollouts:
        start = fleet.version
        rollouts.mark_trained(rollouts.batch(start), start)
        changed_learner(export_slowly)
        fleet.version += 1
        first = rollouts.mark_trained(rollouts.batch(start + 1), start + 1).waits
        assert first.learner > 1.0
        fleet.version += 1
        second = rollouts.mark_trained(rollouts.batch(start + 2), start + 2).waits
    assert 0 < first.stopped + second.stopped < 0.5
