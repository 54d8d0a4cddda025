"""The starting policy's rewards, and an engine that computes something else."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from bimode.config.recipe import Recipe
from bimode.errors import MismatchError
from bimode.modes import Mode
from bimode.rl.loss import policy_loss
from bimode.rl.rollout_task import item_of
from pipelines.bpo_reference import FILE, reference_rewards
from pipelines.bpo_steps import credit, update
from tests.pipelines.test_bpo_steps import ScriptedGraph, collect, prompts
from tests.rollouts import config, paired


def test_the_starting_policy_is_asked_once(tmp_path: Path) -> None:
    """Two of eight right: .25; kept in the folder, so that a resumed run compares with the same
    policy.
    """
    recipe = Recipe(name="t", bpo=config("adaptthink", prompts_per_step=2, steps=1))
    graph = ScriptedGraph({"a": 2, "b": 8})
    found = reference_rewards(graph, prompts("ab"), recipe, tmp_path)
    assert found == {"a": 0.25, "b": 1.0}
    assert {(r.mode, r.n, r.max_tokens) for r in graph.asked} == {
        (Mode.AUTO, 8, recipe.bpo.max_tokens)
    }
    assert reference_rewards(ScriptedGraph({}), prompts("ab"), recipe, tmp_path) == found
    assert pq.read_table(tmp_path / FILE).column_names == ["prompt_id", "reward"]
    scored = collect(graph, prompts("ab"), recipe.bpo, found, seed=5)
    assert [g.reference_reward for g in scored.groups] == [0.25, 1.0]


def test_the_starting_policy_is_asked_what_will_be_drawn(tmp_path: Path) -> None:
    """Two steps of two prompts out of eight: four; all eight where dropped groups may be replaced
    by any.
    """
    right = dict.fromkeys("abcdefgh", 1)
    few = Recipe(name="t", bpo=config("adaptthink", prompts_per_step=2, steps=2))
    assert len(reference_rewards(ScriptedGraph(right), prompts("abcdefgh"), few, tmp_path)) == 4
    (tmp_path / FILE).unlink()
    any_of_them = Recipe(
        name="t", bpo=config("adaptthink", prompts_per_step=2, steps=2, resample=1)
    )
    assert (
        len(reference_rewards(ScriptedGraph(right), prompts("abcdefgh"), any_of_them, tmp_path))
        == 8
    )


def test_a_question_that_replaces_a_refused_one_is_compared_with_the_starting_policy_too(
    tmp_path: Path,
) -> None:
    """The first two of eight are to be drawn; one is refused, so any other may come: all that can
    be asked are.
    """
    recipe = Recipe(name="t", bpo=config("adaptthink", prompts_per_step=2, steps=1))
    names = "abcdefgh"
    refused = prompts(names)[item_of(0, 8, recipe.seed)].id
    right = {name: 2 for name in names if name != refused}
    found = reference_rewards(ScriptedGraph(right), prompts(names), recipe, tmp_path)
    assert found == dict.fromkeys(right, 0.25)
    assert reference_rewards(ScriptedGraph({}), prompts(names), recipe, tmp_path) == found, "kept"


def test_the_starting_policy_pays_for_length_too(tmp_path: Path) -> None:
    """Two of eight right, and 3 tokens of 4 with buffer .5: .25 - .5."""
    recipe = Recipe(
        name="t",
        bpo=config("adaptthink", prompts_per_step=1, steps=1, max_tokens=4, overlong_buffer=0.5),
    )
    assert reference_rewards(ScriptedGraph({"a": 2}), prompts("a"), recipe, tmp_path) == {
        "a": -0.25
    }


def test_who_compares_with_nobody_asks_nobody(tmp_path: Path) -> None:
    assert (
        reference_rewards(
            ScriptedGraph({}), prompts("ab"), Recipe(name="t", bpo=config("grpo")), tmp_path
        )
        == {}
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mismatch", "stops"), [(0.0, False), (0.05, False), (0.06, True), (math.inf, True)]
)
def test_an_engine_that_computes_something_else_stops_the_step(
    mismatch: float, stops: bool
) -> None:
    """Before the optimizer moves, and only where it is asked for: in the first two steps of a
    run.
    """
    moved: list[int] = []
    learner = SimpleNamespace(
        update=lambda *_, **__: {"loss": 0.5, "mismatch": 4 * mismatch, "compared": 4.0},
        optim_step=lambda: moved.append(1) or SimpleNamespace(grad_norm=1.0, lr=1.0),
    )
    graph, batch = (
        SimpleNamespace(learner=learner),
        credit([paired((1.0, 0.0), (0.0, 1.0))], config(g=2), 0),
    )
    loss = policy_loss(0.2, 0.2, 0.0)
    if stops:
        with pytest.raises(MismatchError, match=r"bpo\.max_mismatch is 0\.05"):
            update(graph, batch, loss, 0.05)
        assert moved == []
    else:
        assert update(graph, batch, loss, 0.05)["mismatch"] == mismatch
    update(graph, batch, loss)
    assert moved == ([1] if stops else [1, 1])


@pytest.mark.parametrize(
    ("given", "dtype", "limit"),
    [(None, "float32", 1e-4), (None, "bfloat16", 0.05), (0.3, "bfloat16", 0.3)],
)
def test_how_far_engine_and_learner_may_differ(
    given: float | None, dtype: str, limit: float
) -> None:
    assert config(max_mismatch=given).mismatch_limit(dtype) == limit
