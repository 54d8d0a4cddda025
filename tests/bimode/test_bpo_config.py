"""The `[bpo]` section: whose value counts, what an algorithm refuses, and what a step sees of a
schedule.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bimode import algorithms
from bimode.config.recipe import Recipe
from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError

PLAIN = BpoConfig()


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_one_key_brings_the_algorithms_defaults(name: str) -> None:
    """Each default is taken, differs from the schema's or names what it relies on, and nothing else
    moves.
    """
    made = Recipe.of({"name": "t"}, (f"bpo.algorithm={name}",)).bpo
    defaults = dict(algorithms.load(name).defaults)
    assert {key: getattr(made, key) for key in defaults} == defaults
    rest = {"algorithm", *defaults}
    assert made.model_dump(exclude=rest) == PLAIN.model_dump(exclude=rest)


def test_the_schema_is_the_default_algorithms() -> None:
    """A recipe without a `[bpo]` section is one with `algorithm = "per_mode"`, and docs/recipe.md
    shows its values.
    """
    assert BpoConfig(algorithm="per_mode") == PLAIN
    for name, field in BpoConfig.model_fields.items():
        assert getattr(PLAIN, name) == field.default


def test_what_the_user_says_goes_before_what_the_algorithm_says() -> None:
    """In the file or by --set, also where the value is the schema's own default."""
    table = {"name": "t", "bpo": {"algorithm": "dapo", "clip_high": 0.2}}
    made = Recipe.of(table, ("bpo.kl=0.01", "bpo.max_tokens=40")).bpo
    assert (made.clip_high, made.kl, made.max_tokens) == (0.2, 0.01, 40)
    assert (made.aggregate, made.resample, made.overlong_buffer) == ("token", 3, 0.2)
    switched = Recipe.of({"name": "t", "bpo": {"algorithm": "dapo"}}, ("bpo.algorithm=grpo",)).bpo
    assert (switched.clip_high, switched.kl) == (
        0.2,
        0.01,
    ), "nothing is left of the algorithm that was not chosen"


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_a_resolved_config_is_itself_wherever_it_goes(name: str) -> None:
    """Manifests hold it as JSON, stages as an object, and a copy may change one value without
    waking the defaults.
    """
    recipe = Recipe.of({"name": "t"}, (f"bpo.algorithm={name}", "bpo.kl=0.25"))
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    assert Recipe(name="t", bpo=recipe.bpo) == recipe
    assert BpoConfig.model_validate(recipe.bpo.model_dump(exclude_unset=True)) == recipe.bpo
    copy = recipe.bpo.model_copy(update={"steps": 7})
    assert (
        copy.model_dump(exclude={"steps"}) == recipe.bpo.model_dump(exclude={"steps"})
        and copy.steps == 7
    )


def test_listing_the_names_imports_none_of_them() -> None:
    code = (
        "import sys; from bimode import algorithms; print(algorithms.NAMES); print([m for m in"
        " sys.modules if 'numpy' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    assert "per_mode" in names and loaded == "[]"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("bpo.algorithm=degrop",),
            "bpo.algorithm = degrop: use .*'hgpo' or 'per_mode'; did you mean degrpo",
        ),
        (("bpo.algorithm=3",), "bpo.algorithm = 3: "),
        (
            ("bpo.algorithm=degrpo", "bpo.decision=masked"),
            "bpo.decision = masked: bpo.algorithm = degrpo takes trained$",
        ),
        (
            ("bpo.algorithm=bpo", "bpo.decision=preferred"),
            "bpo.algorithm = bpo takes masked or trained or forced_as_sampled$",
        ),
        (
            ("bpo.algorithm=hgpo", "bpo.self_routed=0.1"),
            "bpo.self_routed = 0.1: bpo.algorithm = hgpo has no rollouts of both",
        ),
        (
            ("bpo.sync=shared_memory", "cluster.learner_gpus=1"),
            "bpo.sync = shared_memory: reads the learner's memory, which a GPU's is not",
        ),
        (
            ("bpo.rollout_workers_max=4", "bpo.sync=nccl"),
            "bpo.rollout_workers_max = 4: sync = nccl fixes the set of workers",
        ),
        (
            ("bpo.rollout_workers=4", "bpo.rollout_workers_max=2"),
            "bpo.rollout_workers_max = 2: is less than .* = 4, with which",
        ),
        (
            ("bpo.max_staleness=1", "bpo.self_routed_final=0.5"),
            "bpo.self_routed_final = 0.5: .*max_staleness = 0$",
        ),
        (
            ("bpo.algorithm=bpo", "bpo.self_routed_final=1"),
            "bpo.self_routed_final = 1.0: .*leave it out$",
        ),
        (
            ("bpo.algorithm=adaptthink", "bpo.importance=truncated"),
            "bpo.importance = truncated: .*; use behavior, or another",
        ),
        (("bpo.self_routed=1.5",), "bpo.self_routed = 1.5: "),
    ],
)
def test_what_an_algorithm_cannot_do_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Recipe.of({"name": "t"}, overrides)


def test_a_schedule_is_a_line_from_the_first_step_to_the_last() -> None:
    """Five steps: margin .4 -> 0 is .4, .3, .2, .1, 0; a share without an end stays."""
    whole = BpoConfig(steps=5, margin=0.4, margin_final=0.0, self_routed=0.5)
    steps = [whole.at(step) for step in range(5)]
    assert [now.margin for now in steps] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert {now.self_routed for now in steps} == {0.5}
    assert steps[3].at(3) == steps[3], "what is resolved has no schedule any more"
    single = BpoConfig(steps=1, margin=0.4, margin_final=0.0)
    assert single.at(0).margin == 0.4
