"""The models of curation and the use of their replies: tags by attempts, verdicts on open
questions, traces. Each model is a directory of the recipe, served by BPO's rollout workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bimode.config.recipe import Recipe
from bimode.config.traces import SELF
from bimode.storage.run_dir import digest_path, provenance_of
from data_curation.sampling.attempts import MODES, Tagger
from data_curation.sampling.prompt_job import run_job
from data_curation.store import Store
from data_curation.tagging import judge as judging
from data_curation.tagging import tagging
from data_curation.tagging.cross_fit import assign_to_models, questions, training_files
from data_curation.tagging.judge import Judge
from data_curation.traces import generate
from data_curation.traces.filter import refuse_traces
from data_curation.traces.generate import Teacher
from pipelines.progress import counted, kept_first, log_line, track, until_loaded

if TYPE_CHECKING:
    from actors.rollout.worker import RolloutWorker


def model_inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """Return the directories by role: base, judge, teacher, without those that the recipe does not
    need. Raises ConfigError.

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
    """Return the tagging models: those that the recipe names, else the run's own base."""
    named = [inputs[f"tagger-{at}"] for at in range(len(recipe.curate.rollouts.models))]
    if not named:
        return [tagger(recipe, inputs["base"], _name(Path(recipe.model.base)))]
    return [tagger(recipe, path, _name(path)) for path in named]


def tagger_lessons(recipe: Recipe) -> list[tuple[Path, ...]]:
    """Return the rows that each tagging model was trained on, as files. Raises ConfigError if they
    are gone.
    """
    from bimode.errors import config_errors
    from bimode.models.prepare_model import NEW_TINY_LLAVA
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
    """Return e.g. `half-0/anneal` for the model of a run."""
    made = provenance_of(model)
    return f"{made.run.name}/{made.stage}" if made else model.name


def tagger(recipe: Recipe, path: Path, name: str) -> Tagger:
    """Make the tagging model in `path`."""
    from actors.rollout.worker import RolloutWorker

    return Tagger(
        **_prompted(recipe, path, RolloutWorker, recipe.model.max_model_len),
        name=name,
        config=recipe.curate.rollouts,
    )


def judge(recipe: Recipe, path: Path) -> Judge:
    """Make the judge, which says whether an open question needs reasoning."""
    from actors.rollout.chat_worker import ChatWorker

    config = recipe.curate.judge
    return Judge(
        **_prompted(recipe, path, ChatWorker, config.max_model_len), name=path.name, config=config
    )


def teacher(recipe: Recipe, path: Path, base: Path) -> Teacher:
    """Make the teacher, which writes traces for the model in `base` to learn from."""
    from actors.rollout.worker import RolloutWorker
    from bimode.renderer import Renderer

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
    """Return the settings that all prompt jobs share, for the model in `path`."""
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


def tag(recipe: Recipe, store: Store, inputs: Mapping[str, Path], cache: Path, tags: Path) -> None:
    """Check the sources' own traces, then tag rows: by attempts in both modes if a verifier can
    mark them, else by a judge, whose votes are published in the folder `tags`.
    """
    refuse_traces(store, recipe.curate.traces, recipe.curate.filter)
    tag_by_attempts(recipe, store, inputs, cache / "rollouts")
    ask_judge(recipe, store, inputs, cache / "judge", tags)
    if "teacher" in inputs:
        write_traces(recipe, store, inputs, cache / "traces")
    tagging.reject_traceless(store)


def tag_by_attempts(recipe: Recipe, store: Store, inputs: Mapping[str, Path], cache: Path) -> None:
    """Sample each question with a model that was not trained on it, and tag it by its attempts."""
    curate, models = recipe.curate, taggers(recipe, inputs)
    seen = [questions(files) for files in tagger_lessons(recipe)]
    assigned, known = assign_to_models(tagging.objective_rows(store), seen)
    chosen = tagging.choose_rows(pa.concat_tables(assigned), curate.tag_rows)
    if warning := tagging.warn_about_attempts(chosen, curate):
        log_line(warning)
    engines, n = counted(curate.rollouts.concurrency, "engine"), curate.rollouts.n
    sampled = []
    with track("curate: rollouts", chosen.num_rows * len(MODES) * n, "rollout") as bar:
        for model, rows in zip(models, assign_to_models(chosen, seen)[0], strict=True):
            loading = f"curate: loading {model.name} into {engines}"
            advance = until_loaded(bar, rows.num_rows * len(MODES) * n, loading)
            folder = run_job(store.files, rows, model, cache, times(n, advance))
            sampled.append(tagging.Sampled(model, rows, folder))
    tagging.tag_rows(store, sampled, known, curate)


def times(n: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return `advance` multiplied by `n`."""
    return lambda rows: advance(rows * n)


def ask_judge(
    recipe: Recipe, store: Store, inputs: Mapping[str, Path], cache: Path, tags: Path
) -> None:
    """Tag open questions by the judge, and compare it with pass counts; without a judge they are
    rejected.
    """
    judging.set_aside(store, "judge" in inputs)
    if "judge" not in inputs:
        return
    job = judge(recipe, inputs["judge"])
    chosen = judging.choose_open(store)
    known = judging.choose_tagged(store, job.config.calibration_rows)
    loading = f"curate: loading {job.name} into {counted(job.config.concurrency, 'engine')}"
    with track("curate: judge", chosen.num_rows + known.num_rows, "question") as bar:
        advance = until_loaded(bar, chosen.num_rows, loading)
        verdicts = list(judging.sample_verdicts(store.files, chosen, job, cache, advance))
        judging.tag_open(store, verdicts, job)
        judging.publish_verdicts(verdicts, tags)
        if warning := judging.unparsed_warning(verdicts):
            log_line(warning)
        tried = judging.sample_verdicts(store.files, known, job, cache, kept_first(bar))
        log_line(judging.compared(store, tried))


def write_traces(recipe: Recipe, store: Store, inputs: Mapping[str, Path], cache: Path) -> None:
    """Write missing traces with a teacher or the tagging model itself."""
    job = teacher(recipe, inputs["teacher"], inputs["base"])
    outcomes = generate.Outcomes()
    chosen = generate.choose_rows(store, recipe.curate, job.config)
    loading = f"curate: loading {job.name} into {counted(job.config.concurrency, 'engine')}"
    with track("curate: traces", chosen.num_rows, "row") as bar:
        advance = until_loaded(bar, chosen.num_rows, loading)
        traces = generate.sample_traces(store.files, chosen, job, cache, advance)
        generate.write_traces(store, outcomes.counted(traces), job.name)
    log_line(f"curate: {outcomes}")
