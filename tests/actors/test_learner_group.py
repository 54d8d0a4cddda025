"""What a group makes of a rank that is gone, and of one that only made a mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from actors.learner.group import LearnerGroup, _get
from bimode.errors import DivergedError, LearnerLostError
from tests.actors.mortal_ranks import Broken, Rank

pytestmark = pytest.mark.ray


@pytest.fixture
def ranks(ray_local: Any) -> Iterator[list[Any]]:
    made = [ray_local.remote(num_cpus=0)(Rank).remote() for _ in range(3)]
    yield made
    for rank in made:
        ray_local.kill(rank)


def test_a_rank_that_dies_among_several_is_found_behind_the_error_of_a_survivor(
    ranks: list[Any],
) -> None:
    """The survivor's error is there first; it alone would end the run."""
    with pytest.raises(LearnerLostError, match="a rank of the learner group died"):
        _get([ranks[0].lose_the_others.remote(), ranks[1].fine.remote(), ranks[2].die.remote()])


def test_a_rank_that_memory_ran_out_for_is_lost_too(ranks: list[Any]) -> None:
    for wanted in (
        ranks[0].run_out_of_memory.remote(),
        [ranks[1].fine.remote(), ranks[0].run_out_of_memory.remote()],
    ):
        with pytest.raises(LearnerLostError):
            _get(wanted)


def test_a_worker_that_dies_under_a_rank_that_sends_is_told_from_a_rank(
    ray_local: Any, ranks: list[Any]
) -> None:
    """With nccl and ipc the ranks speak to the workers: who died is another, and the group
    lives.
    """
    ray_local.kill(ranks[2])
    with pytest.raises(
        LearnerLostError,
        match="a rollout worker died while a rank of the learner group sent it weights",
    ):
        _get([ranks[0].ask.remote(ranks[2]), ranks[1].fine.remote()])


def test_weights_that_are_sent_to_a_worker_that_says_nothing_are_late(ranks: list[Any]) -> None:
    group = object.__new__(LearnerGroup)
    group.ranks = ranks
    with pytest.raises(
        LearnerLostError, match="the weights of version 3 are not with every worker after 1 s"
    ):
        asyncio.run(group.send(3, 1.0))


def test_what_a_rank_raises_surfaces_as_it_is_where_all_live(ranks: list[Any]) -> None:
    with pytest.raises(DivergedError, match="loss is nan"):
        _get([ranks[0].fine.remote(), ranks[1].diverge.remote()])
    with pytest.raises(RayTaskError, match="Connection closed"):
        _get(ranks[0].lose_the_others.remote())
    assert _get([rank.fine.remote() for rank in ranks]) == [7, 7, 7]


def test_a_rank_that_could_not_start_says_why(ray_local: Any) -> None:
    with pytest.raises(RayActorError, match="no such model"):
        _get([ray_local.remote(num_cpus=0)(Broken).remote().fine.remote()])
