"""One conformance suite for every weight transport: each fault in each phase is found within its
deadline and said in one line; what a transport declares (`bimode.rl.transports`) is what it does.

Real actors, learner and protocol; the engines are simulated, since each fault costs one. In the
place of vLLM's trainer engines, which need GPUs, stands a sender that calls the workers as they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bimode.config.rl import BpoConfig
from bimode.errors import CorruptWeightsError, LearnerLostError, WorkerLostError
from bimode.rl.transports import LIMITS
from pipelines.chaos import corrupt, slow, stall
from tests.actors import loops
from tests.actors.damage import (
    at_resume,
    at_slice,
    at_update,
    at_verify,
    die,
    die_at_send,
    die_later,
    export_slowly,
    has_a_long_slice,
    holds_another_bucket,
    into_small_buckets,
    share_weights,
    simulate_senders,
    stall_at_send,
    stall_at_third_bucket,
)
from tests.actors.loops import DEADLINE_S, new_fleet, new_learner, updates, versions, wait_for

pytestmark = pytest.mark.ray

BPO = BpoConfig(prompts_per_step=2, group_size=2, max_tokens=20, rollout_workers=2, lease=1)
Damage = Callable[[Any], None]


@pytest.fixture(scope="module", params=LIMITS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def learner(ray_local: Any, text_model: Path, transport: str) -> Iterator[Any]:
    group = prepared_learner(ray_local, text_model, transport)
    yield group
    group.close()


def prepared_learner(ray: Any, model_dir: Path, transport: str) -> Any:
    group = new_learner(model_dir)
    prepare = {"shared_memory": share_weights, "object_store": into_small_buckets}
    ray.get(group.ranks[0].__ray_call__.remote(prepare.get(transport, simulate_senders)))
    return group


class Bench:
    """One run with a transport: `said` has the lines of its loop."""

    def __init__(
        self,
        ray: Any,
        model_dir: Path,
        transport: str,
        learner: Any,
        folder: Path,
        staleness: int,
        in_slice: Damage | None,
    ) -> None:
        from benchmarks.peers.simulated import PromptWorker

        self.ray, self.said, self._open = ray, list[str](), ExitStack()
        bpo = BPO.model_copy(update={"max_staleness": staleness})
        self.fleet = new_fleet(model_dir, PromptWorker, transport, timeout_s=60.0)
        self._open.callback(self.fleet.close)
        self.weights = self._open.enter_context(updates(self.fleet, learner, DEADLINE_S))
        if not LIMITS[transport].joins:
            self.weights.connect()
        if in_slice is not None:
            self.hit(in_slice)
        self.loop = self._open.enter_context(loops.rollouts(self.weights, folder, bpo, self.said))

    def step(self, version: int) -> Any:
        batch = self.loop.batch(version)
        self.loop.mark_trained(batch, version)
        return batch

    def hit(self, damage: Damage) -> Any:
        """Does damage to the first worker."""
        victim = self.fleet.workers[0]
        self.ray.get(victim.actor.__ray_call__.remote(damage))
        return victim

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def bench(
    ray_local: Any, text_model: Path, transport: str, learner: Any, tmp_path: Path
) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(by: Any = learner, staleness: int = 0, in_slice: Damage | None = None) -> Bench:
        opened.append(Bench(ray_local, text_model, transport, by, tmp_path, staleness, in_slice))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_every_version_is_acknowledged_by_every_worker(bench: Any) -> None:
    run = bench()
    for version in range(3):
        assert versions(run.step(version)) == {version}
        run.weights.push(version + 1)
        wait_for(lambda: all(w.version == run.weights.version for w in run.fleet.workers))
    wait_for(lambda: not run.weights.pushes)
    assert not run.said


def test_staleness_as_declared(bench: Any, transport: str) -> None:
    """Weights land while completions are under way, and nobody waits for the other side."""
    assert LIMITS[transport].staleness
    run = bench(staleness=2)
    for version in range(4):
        assert all(version - d.oldest <= 2 for d in run.step(version))
        run.weights.push(version + 1)
    wait_for(lambda: all(worker.version == 4 for worker in run.fleet.workers))
    assert not run.said


def test_join_and_leave_as_declared(bench: Any, transport: str) -> None:
    run = bench()
    run.step(0)
    run.weights.push(1)
    run.loop.resize(3)
    if not LIMITS[transport].joins:
        assert len(run.fleet.workers) == 2
        with pytest.raises(
            WorkerLostError, match=f"bpo.sync = {transport} fixes the set of workers"
        ):
            run.fleet.add_worker()
        return
    wait_for(lambda: len([w for w in run.fleet.workers if w.is_ready]) == 3)
    assert versions(run.step(1)) == {1}
    run.weights.push(2)
    wait_for(lambda: [w.version for w in run.fleet.workers] == [2, 2, 2])
    run.loop.resize(1)
    wait_for(lambda: len(run.fleet.workers) == 1)
    assert versions(run.step(2)) == {2}


# (fault, what it does to the first worker, the phase in which it is found, what is said)
BUCKETS: list[tuple[str, Damage, str]] = [
    ("late-transfer", slow, "is late: phase transfer of version 1 is not over after 2 s"),
    ("dead-transfer", lambda worker: setattr(worker, "load", die), "died in phase transfer of"),
    ("wrong-transfer", corrupt, "is not trusted in phase transfer of version 1 after"),
    ("wrong-verify", holds_another_bucket, "is not trusted in phase verify of version 1 after"),
]
ANY: list[tuple[str, Damage, str]] = [
    ("late-pause", at_slice(stall), "is late: phase pause of version 1 is not over after 2 s"),
    ("dead-pause", at_slice(die_later), "died in phase pause of version 1 after"),
    ("late-verify", at_verify(stall), "is late: phase verify of version 1 is not over after 2 s"),
    ("dead-verify", at_verify(die), "died in phase verify of version 1 after"),
    ("late-resume", at_resume(stall), "is late: phase resume of version 1 is not over after 2 s"),
    ("dead-resume", at_resume(die), "died in phase resume of version 1 after"),
]
COLLECTIVE: list[tuple[str, Damage, str]] = [
    ("late-transfer", at_update(stall), "weights of version 1 are not with every worker after 2 s"),
    ("dead-transfer", at_update(die), "a rollout worker died while a rank of the learner group"),
]
# with shared memory the weights are read, and these faults found, before the pause is over
PAUSE_INSTEAD = {"late-transfer", "dead-transfer"}
# and a worker in a slice that is too long leaves the push: a test of its own below
NOT_SHARED = PAUSE_INSTEAD | {"late-pause", "dead-pause"}


def faults_of(name: str) -> list[tuple[str, Damage, str]]:
    faults = ANY + (BUCKETS if LIMITS[name].checksums else COLLECTIVE)
    if name != "shared_memory":
        return faults
    early = [(f, d, s.replace("transfer", "pause")) for f, d, s in faults if f in PAUSE_INSTEAD]
    early = [(f"{fault}-check", damage, says) for fault, damage, says in early]
    return early + [fault for fault in faults if fault[0] not in NOT_SHARED]


CASES = [(name, *fault) for name in LIMITS for fault in faults_of(name)]


@pytest.mark.parametrize(
    ("transport", "fault", "damage", "says"),
    CASES,
    ids=[f"{name}-{fault}" for name, fault, *_ in CASES],
    indirect=["transport"],
    scope="module",
)
def test_a_fault_of_a_worker_is_found_in_its_phase(
    bench: Any, transport: str, fault: str, damage: Damage, says: str
) -> None:
    in_slice = fault in ("late-pause", "dead-pause")  # which the victim has not ended at the push
    run = bench(staleness=int(in_slice), in_slice=damage if in_slice else None)
    victim = run.fleet.workers[0]
    run.step(0)
    if not in_slice:
        run.hit(damage)
    began = time.monotonic()
    run.weights.push(1)
    if LIMITS[transport].joins:
        batch = run.loop.batch(1)
        wait_for(lambda: run.said)
        seconds = time.monotonic() - began
        assert versions(batch) <= {0, 1}
        assert len(run.said) == 1 and run.said[0].startswith(f"{victim.name} {says}")
        assert "takes its place" in run.said[0] and victim not in run.fleet.workers
        run.weights.push(2)
        wait_for(lambda: all(worker.version == 2 for worker in run.fleet.workers))
    else:  # the run ends, and starts again from its last checkpoint
        with pytest.raises((WorkerLostError, LearnerLostError)) as ended:
            run.loop.batch(1)  # the other worker may have answered all of it
            wait_for(lambda: run.loop._failure or run.weights.failure)
            run.loop.batch(1)
        seconds = time.monotonic() - began
        line = f"{victim.name} is gone and no other can take its place"
        cause = str(ended.value.__context__ or "")
        assert says in str(ended.value) or (line in str(ended.value) and says in cause)
    assert seconds < (DEADLINE_S + 6 if fault.startswith("late") else 6)


FAULTS_OF_THE_LEARNER: dict[str, list[tuple[Damage, str]]] = {
    "object_store": [
        (stall_at_third_bucket, "the learner: phase prepare of version 1 is not over after 2 s"),
        (die, "a rank of the learner group died"),
    ],
    "shared_memory": [
        (stall_at_third_bucket, "the learner: phase prepare of version 1 is not over after 2 s"),
        (die, "a rank of the learner group died"),
    ],
    "nccl": [
        (stall_at_send, "the weights of version 1 are not with every worker after 2 s"),
        (die_at_send, "a rank of the learner group died"),
    ],
}
LEARNER_CASES = [
    (name, damage, says)
    for name in LIMITS
    for damage, says in FAULTS_OF_THE_LEARNER.get(name, FAULTS_OF_THE_LEARNER["nccl"])
]


@pytest.mark.parametrize(
    ("transport", "damage", "says"),
    LEARNER_CASES,
    ids=[f"{name}-{damage.__name__}" for name, damage, _ in LEARNER_CASES],
    indirect=["transport"],
    scope="module",
)
def test_a_fault_of_the_learner_ends_the_loop_in_one_line(
    ray_local: Any, text_model: Path, transport: str, bench: Any, damage: Damage, says: str
) -> None:
    """`pipelines.bpo` starts the learner again; no worker is blamed."""
    other = prepared_learner(ray_local, text_model, transport)
    try:
        run = bench(other)
        run.step(0)
        other.ranks[0].__ray_call__.remote(damage)
        with pytest.raises(LearnerLostError, match=says):
            run.weights.push(1)
            run.loop.batch(1)
        assert not run.said
    finally:
        other.close()


@pytest.mark.parametrize("transport", ["object_store"], indirect=True, scope="module")
def test_weights_that_are_damaged_at_every_worker_end_the_run(bench: Any, transport: str) -> None:
    """Then it is the sender: replacing workers without end would help nobody."""
    run = bench()
    run.step(0)
    struck = set[Any]()

    def strike() -> bool:
        for worker in {*run.fleet.workers} - struck:
            worker.actor.__ray_call__.remote(corrupt)  # comes before any weights
            struck.add(worker)
        return run.loop._failure is not None

    strike()
    run.weights.push(1)
    wait_for(strike, 120.0)
    with pytest.raises(CorruptWeightsError, match="damaged"):
        run.loop.batch(1)
    assert len(run.said) == 3


@pytest.mark.parametrize("transport", ["object_store"], indirect=True, scope="module")
def test_generation_goes_on_while_the_learner_prepares(
    ray_local: Any, text_model: Path, transport: str, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that takes seconds for its weights stops nobody for seconds; and of many buckets a
    few are out of the learner at a time.
    """
    from actors.weights.object_store import WINDOW, BucketPush

    ahead: list[int] = []
    real = BucketPush.exported
    monkeypatch.setattr(
        BucketPush,
        "exported",
        lambda push, bucket: (
            ahead.append(len([b for b in push.buckets if b is not None])),
            real(push, bucket),
        ),
    )
    other = prepared_learner(ray_local, text_model, transport)
    try:
        run = bench(other, staleness=1)
        run.step(0)
        ray_local.get(other.ranks[0].__ray_call__.remote(export_slowly))
        run.weights.push(1)
        first = run.loop.mark_trained(run.loop.batch(1), 1).waits
        wait_for(lambda: all(worker.version == 1 for worker in run.fleet.workers))
        run.weights.push(2)
        second = run.loop.mark_trained(run.loop.batch(2), 2).waits
        assert first.learner > 1.0
        assert 0 < first.stopped + second.stopped < first.learner - 0.2
        assert len(ahead) > 4 and max(ahead) <= WINDOW + 1
    finally:
        other.close()


@pytest.mark.parametrize("transport", ["shared_memory"], indirect=True, scope="module")
def test_the_learner_waits_for_no_worker_that_is_busy_with_its_slice(
    bench: Any, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker leaves the push, and gets the next weights."""
    monkeypatch.setattr("actors.weights.shared_memory.PATIENCE_S", 1.0)
    run = bench(staleness=9)
    run.step(0)
    busy = run.hit(has_a_long_slice)
    wait_for(lambda: busy.leases)
    for version in range(1, 40):
        run.weights.push(version)
        began = time.monotonic()
        run.step(version)
        assert time.monotonic() - began < 3.0
        if busy.version >= 1:
            break
        time.sleep(0.3)
    assert busy.version >= 1 and not run.said and busy in run.fleet.workers
