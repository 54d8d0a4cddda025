"""The models that curation prompts: taggers, the judge of open questions, the teacher of traces.
Each is a directory of the recipe, served by BPO's rollout workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.config.traces import SELF
from bimode.storage.run_dir import digest_path, provenance_of

if TYPE_CHECKING:
    from actors.rollout.worker import RolloutWorker
    from data_curation.sampling.attempts import Tagger
    from data_curation.tagging.judge import Judge
    from data_curation.traces.generate import Teacher


def model_inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The directories by role: base, judge, teacher; those that the recipe does without are left
    out. Raises ConfigError.

    The base is always there: its tokenizer and its length decide which rows can be prompts.
    """
    from pipelines.harness import base_directory, base_model

    curate, found = recipe.curate, {"base": base_model(recipe, run)}
    if not curate.tags:
        return found
    for at, model in enumerate(curate.rollouts.models):
        found[f"tagger-{at}"] = base_directory(model, f"curate.rollouts.models.{at}")
    for role, key, model in (
        ("judge", "judge", curate.judge.model),
        ("teacher", "traces", curate.traces.model),
    ):
        if model == SELF:
            found[role] = found["base"]
        elif model:
            found[role] = base_directory(model, f"curate.{key}.model")
    return found


def taggers(recipe: Recipe, inputs: Mapping[str, Path]) -> list[Tagger]:
    """The tagging models: those that the recipe names, else the run's own base."""
    named = [inputs[f"tagger-{at}"] for at in range(len(recipe.curate.rollouts.models))]
    if not named:
        return [tagger(recipe, inputs["base"], _name(Path(recipe.model.base)))]
    return [tagger(recipe, path, _name(path)) for path in named]


def tagger_lessons(recipe: Recipe) -> list[tuple[Path, ...]]:
    """What each of them was trained on: files of rows. Raises ConfigError where that is no longer
    there.
    """
    from bimode.errors import config_errors
    from bimode.models.prepare_model import NEW_TINY_LLAVA
    from data_curation.tagging.cross_fit import training_files
    from pipelines.harness import base_directory

    models, base = recipe.curate.rollouts.models, recipe.model.base
    named = {f"curate.rollouts.models.{at}": name for at, name in enumerate(models)} or {
        "model.base": base
    }
    found = []
    for key, name in named.items():
        with config_errors(key):
            found.append(
                () if name == NEW_TINY_LLAVA else training_files(base_directory(name, key))
            )
    return found


def _name(model: Path) -> str:
    """E.g. `half-0/anneal` for the model of a run."""
    made = provenance_of(model)
    return f"{made.run.name}/{made.stage}" if made else model.name


def tagger(recipe: Recipe, path: Path, name: str) -> Tagger:
    """The model in `path` as one that tags."""
    from actors.rollout.worker import RolloutWorker
    from data_curation.sampling.attempts import Tagger

    return Tagger(
        **_prompted(recipe, path, RolloutWorker, recipe.model.max_model_len),
        name=name,
        config=recipe.curate.rollouts,
    )


def judge(recipe: Recipe, path: Path) -> Judge:
    """The model that judges whether open questions need reasoning."""
    from actors.rollout.chat_worker import ChatWorker
    from data_curation.tagging.judge import Judge

    config = recipe.curate.judge
    return Judge(
        **_prompted(recipe, path, ChatWorker, config.max_model_len), name=path.name, config=config
    )


def teacher(recipe: Recipe, path: Path, base: Path) -> Teacher:
    """The model that writes traces, for the one in `base` to learn from."""
    from actors.rollout.worker import RolloutWorker
    from bimode.renderer import Renderer
    from data_curation.traces.generate import Teacher

    model, config = recipe.model, recipe.curate.traces
    return Teacher(
        **_prompted(recipe, path, RolloutWorker, model.max_model_len),
        name=Path(model.base).name if config.model == SELF else path.name,
        config=config,
        controls=Renderer(base).control_tokens,
    )


def _prompted(
    recipe: Recipe, path: Path, worker: type[RolloutWorker], max_model_len: int
) -> dict[str, Any]:
    """What every prompt job has, for the model in `path`."""
    from cluster.placement import plan

    [role] = plan("curate", recipe)
    opener = partial(
        worker,
        "curator",
        path.absolute(),
        max_model_len=max_model_len,
        dtype=recipe.model.dtype,
        seed=recipe.seed,
        sync="object_store",
    )
    return {
        "open_worker": opener,
        "digest": digest_path(path),
        "dtype": recipe.model.dtype,
        "max_model_len": max_model_len,
        "seed": recipe.seed,
        "options": role.options(),
    }
