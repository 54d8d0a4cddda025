"""The rollout loop on real workers: equal batches whoever dies, weights that land in mid-response, errors that surface."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimode.bpo_config import BpoConfig
from bimode.config import ModelConfig
from bimode.desk import Desk, Drawn, Lease
from bimode.errors import ConfigError
from bimode.ledger import FILE, Ledger, read
from bimode.records import Completion, GenerationRequest, Prompt, WeightSnapshot
from pipelines.bpo_steps import drawn, requests
from tests.rollouts import paired

pytestmark = pytest.mark.ray

QUESTION = "digits : read the strip as one number . what is its remainder ?"
BPO = BpoConfig(prompts_per_step=4, group_size=3, max_tokens=40, rollout_workers=2)


def prompt_of(ticket: int) -> Prompt:
    return replace(paired([1], [1]).prompt, id=f"q{ticket}", question=QUESTION, images=())


@pytest.fixture
def fleet(ray_local: Any, text_model: Path) -> Iterator[Any]:
    from actors.fleet import RolloutFleet

    model = ModelConfig(max_model_len=128)
    fleet = RolloutFleet(text_model, model, workers=2, options={"num_cpus": 0}, seed=0, sync="object_store")
    yield fleet
    fleet.close()


def loop(
    fleet: Any,
    folder: Path,
    bpo: BpoConfig = BPO,
    said: list[str] | None = None,
    timeout_s: float = 600.0,
    wanted: Callable[[], int] = lambda: 2,
) -> Any:
    from actors.rollouts import Rollouts

    def asked(lease: Lease) -> list[tuple[int, Prompt]]:
        return [(ticket, prompt_of(ticket)) for ticket in lease.tickets]

    def ask(lease: Lease) -> list[GenerationRequest]:
        return requests(asked(lease), bpo, 0)

    def judge(lease: Lease, completions: Sequence[Completion]) -> list[Drawn]:
        return drawn(asked(lease), bpo, completions, {})

    desk = Desk(
        Ledger(folder), prompt_of, lambda group, step: True, groups_per_step=bpo.prompts_per_step,
        lease_groups=bpo.lease_groups, max_staleness=bpo.max_staleness, may_filter=0,
    )  # fmt: skip
    say = (said if said is not None else []).append
    return Rollouts(fleet, desk, ask, judge, timeout_s=timeout_s, wanted=wanted, say=say)


def bits(batch: Sequence[Drawn]) -> list[Any]:
    """What a step depends on; NaN compared as text."""
    return [(d.ticket, [(c.token_ids_T, str(c.logprobs_T)) for c in (*d.group.completions, *d.probes)]) for d in batch]


def test_a_worker_that_dies_costs_no_question_and_no_bit(ray_local: Any, fleet: Any, tmp_path: Path) -> None:
    with loop(fleet, tmp_path / "whole") as rollouts:
        whole = rollouts.batch(0)
    said: list[str] = []
    with loop(fleet, tmp_path / "killed", said=said) as rollouts:
        rollouts.turn()  # both have a lease now
        victim = fleet.members[0]
        ray_local.kill(victim.actor)
        disturbed = rollouts.batch(0)
    assert bits(disturbed) == bits(whole) and rollouts.lost == 1
    assert said == ["rollout-0 died: rollout-2 takes its place; its lease of 2 questions goes to another"]
    found = read(tmp_path / "killed" / FILE)
    assert found.books.counts()["generated"] == found.books.drawn == 4
    assert [m["ticket"] for m in found.moves if m.get("why") == f"{victim.name} died"] == [0, 1]


def test_a_worker_that_falls_silent_is_replaced(ray_local: Any, fleet: Any, tmp_path: Path) -> None:
    ray_local.get([worker.version.remote() for worker in fleet.workers])
    for member in fleet.members:
        member.has_answered = True
    said: list[str] = []
    with loop(fleet, tmp_path, said=said, timeout_s=20.0) as rollouts:
        fleet.members[1].actor.__ray_call__.remote(lambda _: threading.Event().wait(3600))
        assert [d.ticket for d in rollouts.batch(0)] == [0, 1, 2, 3]
    assert len(said) == 1 and "rollout-1 has not answered begin for 20 s: rollout-2 takes its place" in said[0]


def snapshot(model_dir: Path, version: int, scale: float) -> WeightSnapshot:
    import torch

    from bimode.codec import load_model

    named = list(load_model(model_dir, torch.float32).named_parameters())
    return WeightSnapshot.of(version, [n for n, _ in named], [(p.detach() * scale).numpy() for _, p in named])


def test_weights_land_while_responses_are_under_way(ray_local: Any, fleet: Any, text_model: Path, tmp_path: Path) -> None:
    """Slices of next to nothing: a response is cut by updates, goes on, and says which token came from which version."""
    bpo = BPO.model_copy(update={"max_staleness": 2, "group_size": 1})
    trained: list[Drawn] = []
    with loop(fleet, tmp_path, bpo) as rollouts, pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.rollouts.SLICE_S", 0.001)
        for version in range(6):
            batch = rollouts.batch(version)
            assert all(version - d.oldest <= 2 for d in batch)
            rollouts.trained(batch, version)
            trained += batch
            fleet.aim_at(version + 1, ray_local.put(snapshot(text_model, version + 1, 1.0 + 0.01 * version)))
    spans = [sorted(set(c.versions_T)) for d in trained for c in d.group.completions]
    assert any(len(span) > 1 for span in spans), "no response saw an update"
    assert all(list(c.versions_T) == sorted(c.versions_T) for d in trained for c in d.group.completions)
    assert all(len(c.token_ids_T) == len(c.logprobs_T) <= 40 for d in trained for c in d.group.completions)
    assert not any(math.isnan(x) for d in trained for c in d.group.completions for x in c.logprobs_T[c.num_forced :])
    assert len({d.ticket for d in trained}) == 24


def test_a_worker_whose_weights_arrive_damaged_is_replaced(ray_local: Any, fleet: Any, text_model: Path, tmp_path: Path) -> None:
    """The sender's error would hit everyone, so this one is in the way to a single worker."""
    whole = snapshot(text_model, 1, 1.0)
    damaged = replace(whole, checksum=whole.checksum ^ 1)
    said: list[str] = []
    with loop(fleet, tmp_path, said=said) as rollouts:
        rollouts.trained(rollouts.batch(0), 0)
        fleet.aim_at(1, ray_local.put(whole))
        fleet.members[0].ask("load_weights", ray_local.put(damaged))
        batch = rollouts.batch(1)
    assert {v for d in batch for c in d.group.completions for v in c.versions_T} == {1}
    trouble = "rollout-0 is not trusted (rollout-0: the weights of version 1 have arrived damaged)"
    assert said == [f"{trouble}: rollout-2 takes its place"]


def test_what_goes_wrong_in_a_worker_surfaces_where_the_learner_waits(fleet: Any, tmp_path: Path) -> None:
    for staleness in (0, 1):
        impossible = BPO.model_copy(update={"max_tokens": 1, "max_staleness": staleness})
        with loop(fleet, tmp_path / str(staleness), impossible) as rollouts, pytest.raises(ConfigError, match="max_tokens = 1"):
            rollouts.batch(0)


def test_workers_join_and_leave_a_live_loop(ray_local: Any, fleet: Any, text_model: Path, tmp_path: Path) -> None:
    """2 -> 3 -> 1: the newcomer holds the live version, who leaves has finished, and no ticket is lost."""
    said, size = list[str](), [2]
    bpo = BPO.model_copy(update={"lease": 1})
    with loop(fleet, tmp_path, bpo, said, wanted=lambda: size[0]) as rollouts:
        for version, workers in enumerate([2, 3, 1]):
            size[0] = workers
            batch = rollouts.batch(version)
            assert {v for d in batch for c in d.group.completions for v in c.versions_T} == {version}
            ended = rollouts.trained(batch, version)
            assert ended.lost == 0 and ended.waits.total > ended.waits.learner > 0
            fleet.aim_at(version + 1, ray_local.put(snapshot(text_model, version + 1, 1.0)))
        rollouts.turn()
    assert len(fleet.members) == 1
    assert said == [
        "rollout-2 joins: 3 rollout workers",
        "rollout-1 leaves: 2 rollout workers",
        "rollout-2 leaves: 1 rollout workers",
    ]
    assert read(tmp_path / FILE).books.counts()["trained"] == 12
