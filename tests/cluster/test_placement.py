"""Placement is arithmetic: what fits is accepted, what does not is refused with the sum."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError
from cluster.environment import CPU_ENV
from cluster.placement import (
    MOST,
    PIN,
    Role,
    check,
    learner_role,
    most_rollouts,
    plan,
    reserved,
    rollout_role,
)


def recipe(*overrides: str) -> Recipe:
    return Recipe.of({"name": "t"}, overrides)


def test_bpo_has_rollouts_and_a_learner_with_their_own_resources() -> None:
    made = plan(
        "bpo",
        recipe(
            "bpo.rollout_workers=3", "cluster.rollout_gpus=0.5", "cluster.learner_resource=learner"
        ),
    )
    learner = Role("learner", 1, 1.0, 0.0, "learner", hides_gpus=True)
    assert made == (Role("rollout", 3, 1.0, 0.5), learner)
    assert made[0].options() == {"num_cpus": 1.0, "num_gpus": 0.5, "resources": {}}
    on_the_cpu = {"num_cpus": 1.0, "num_gpus": 0.0, "resources": {"learner": PIN}}
    assert made[1].options() == on_the_cpu | {"runtime_env": {"env_vars": CPU_ENV}}


def test_gpus_are_hidden_only_where_some_actors_have_them() -> None:
    """A runtime environment costs a start of Python, so a run without GPUs has none."""
    for override, hidden in (
        ("cluster.threads=1", (False, False)),
        ("cluster.rollout_gpus=1", (False, True)),
        ("cluster.learner_gpus=1", (True, False)),
    ):
        roles = plan("bpo", recipe(override))
        assert tuple("runtime_env" in role.options() for role in roles) == hidden
        assert tuple(bool(role.runtime_env) for role in roles) == hidden


def test_exact_fit_is_accepted_and_one_less_is_refused_with_the_sum() -> None:
    roles = plan("bpo", recipe())
    check("bpo", roles, [{"CPU": 2.0}, {"CPU": 1.0}])
    with pytest.raises(
        ConfigError, match=r"2 rollout x 1 CPU \+ 1 learner x 1 CPU = 3 CPU.*\[2 CPU\]"
    ):
        check("bpo", roles, [{"CPU": 2.0}])


def test_an_actor_must_fit_on_one_node_although_the_sum_is_enough() -> None:
    role = Role("learner", 1, cpus=4.0, gpus=0.0)
    with pytest.raises(ConfigError, match="no node left for a learner of 4 CPU"):
        check("anneal", (role,), [{"CPU": 3.0}, {"CPU": 3.0}])
    check("anneal", (role,), [{"CPU": 3.0}, {"CPU": 4.0}])


def test_large_actors_are_placed_before_small_ones() -> None:
    check(
        "bpo",
        (Role("rollout", 2, 1.0, 0.0), Role("learner", 1, 2.0, 0.0)),
        [{"CPU": 2.0}, {"CPU": 2.0}],
    )


def test_rollout_workers_have_what_the_learner_leaves() -> None:
    assert (
        most_rollouts(recipe(), [{"CPU": 4.0}]) == 3
        and most_rollouts(recipe(), [{"CPU": 2.0}, {"CPU": 1.5}]) == 2
    )
    assert most_rollouts(recipe("bpo.learner.workers=2"), [{"CPU": 9.0}]) == 7
    assert most_rollouts(recipe("bpo.rollout_workers=4"), [{"CPU": 2.0}]) == 4, (
        "what a run starts with was looked at before"
    )
    assert most_rollouts(recipe("cluster.rollout_cpus=0"), [{"CPU": 1.0}]) == MOST


def test_missing_custom_resource_says_how_to_offer_it() -> None:
    cluster = recipe("cluster.rollout_resource=rollout").cluster
    with pytest.raises(
        ConfigError,
        match=r"cluster\.rollout_resource = rollout: no node offers it; start one with ray start",
    ):
        check("bpo", (rollout_role(cluster, 1),), [{"CPU": 8.0}])


def test_pins_separate_roles_onto_their_nodes() -> None:
    cluster = recipe("cluster.rollout_resource=rollout", "cluster.learner_resource=learner").cluster
    roles = (rollout_role(cluster, 2), learner_role(cluster, 1))
    check("bpo", roles, [{"CPU": 1.0, "learner": 1.0}, {"CPU": 2.0, "rollout": 1.0}])
    with pytest.raises(ConfigError, match="no node left for a rollout"):
        check("bpo", roles, [{"CPU": 9.0, "learner": 1.0}, {"CPU": 1.0, "rollout": 1.0}])


def test_fractions_of_a_gpu_add_up() -> None:
    check(
        "bpo",
        (Role("rollout", 3, 0.0, 0.3), Role("learner", 1, 0.0, 0.1)),
        [{"CPU": 1.0, "GPU": 1.0}],
    )


def test_the_gpu_recipe_fits_a_node_of_eight_gpus_and_its_own_limits() -> None:
    """Nobody has run it yet, so that its numbers agree with each other is all that a test can
    hold.
    """
    gpu = Recipe.load(Path(__file__).resolve().parents[2] / "pipelines" / "recipes" / "gpu.toml")
    for stage in ("anneal", "bpo", "evaluate"):
        spare = 4  # CPUs of Ray Data, which feeds the ranks
        check(stage, plan(stage, gpu), [{"CPU": gpu.cluster.num_cpus - spare, "GPU": 8.0}])
    assert gpu.curate.rollouts.concurrency * gpu.cluster.rollout_gpus <= 8
    room = gpu.model.max_model_len // 4  # for a prompt with its image
    longest = max(gpu.curate.rollouts.max_tokens, gpu.bpo.max_tokens, gpu.evaluate.max_tokens)
    assert 1000 < longest <= gpu.model.max_model_len - room
    for learner in (gpu.anneal.learner, gpu.bpo.learner):
        assert learner.micro_tokens >= gpu.model.max_model_len and learner.zero_stage == 3
    assert gpu.model.dtype == "bfloat16" and gpu.bpo.optim.schedule == "constant"


def test_curation_takes_engines_where_it_tags() -> None:
    assert plan("curate", recipe("curate.rollouts.concurrency=3")) == (
        rollout_role(recipe().cluster, 3),
    )
    assert plan("curate", recipe('curate.formats="transcription_and_direct"')) == ()


def test_an_error_asks_nothing_of_a_ray_that_may_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its head it would answer after a minute, by ending the run without a word."""
    groups = import_module("ray.util.placement_group")  # a function of ray.util has its name
    monkeypatch.setattr(
        groups, "placement_group", lambda *_, **__: SimpleNamespace(wait=lambda seconds: True)
    )
    monkeypatch.setattr(
        groups, "remove_placement_group", lambda group: pytest.fail("Ray was asked")
    )
    with pytest.raises(KeyboardInterrupt), reserved(Role("learner", 1, 1.0, 0.0), print):
        raise KeyboardInterrupt


def test_room_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may go on with the same Ray, whose next run would wait for this room for ever."""
    groups, removed = import_module("ray.util.placement_group"), []
    group = SimpleNamespace(wait=lambda seconds: True)
    monkeypatch.setattr(groups, "placement_group", lambda *_, **__: group)
    monkeypatch.setattr(groups, "remove_placement_group", removed.append)
    with pytest.raises(ValueError), reserved(Role("learner", 1, 1.0, 0.0), print):
        raise ValueError
    assert removed == [group]


@pytest.mark.ray
def test_the_room_of_a_role_outlives_its_actors(ray_local: Any) -> None:
    """A learner that starts again finds its place, though rollout workers have grown into all that
    was free.
    """

    class Actor:
        def pid(self) -> int:
            return os.getpid()

    remote, cpus = ray_local.remote(Actor), int(ray_local.cluster_resources()["CPU"])
    with reserved(Role("learner", 1, 1.0, 0.0), print) as options:
        first = remote.options(**options).remote()
        ray_local.get(first.pid.remote())
        others = [
            remote.options(num_cpus=1).remote() for _ in range(cpus)
        ]  # one more than there is room for
        ray_local.get([actor.pid.remote() for actor in others[:-1]])
        ray_local.kill(first)
        second = remote.options(**options).remote()
        ray_local.get(second.pid.remote(), timeout=60)
        waits = others[-1].pid.remote()
        assert ray_local.wait([waits], timeout=1)[0] == []
    ray_local.get(waits, timeout=60)
    for actor in others:
        ray_local.kill(actor)
