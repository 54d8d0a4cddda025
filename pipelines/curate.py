"""Curation: questions in, tagged bi-mode Parquet out (R-4B, section 2.1).

Read, check, filter (one task a shard) -> repeats and contamination -> rollouts in both modes ->
tags -> formats -> a new version.

    python -m pipelines.curate pipelines/recipes/tiny.toml --out runs/demo

Shards and rollouts are kept in DIR/cache by what decides them: a second run costs what is new.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.errors import ConfigError, StarvedError, config_errors
from bimode.storage.run_dir import StageDir, StageResult, write_atomic

if TYPE_CHECKING:
    from data_curation.publishing.report import ReportContext
    from data_curation.sources.shards import Shard
    from data_curation.store import Store


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The files that sources read, as a list with their digests, and the models that are sampled;
    none that it does without.
    """
    from data_curation.sources.listing import list_sources
    from pipelines.curate_models import model_inputs

    found = model_inputs(recipe, run)
    if any(source.path for source in recipe.curate.sources):
        found["sources"] = list_sources(recipe.curate.sources, run / "cache" / "sources.json")
    return found


def config(recipe: Recipe) -> Any:
    """What the data depends on."""
    model = {"dtype": recipe.model.dtype, "max_model_len": recipe.model.max_model_len}
    return {"curate": recipe.curate.settings(), "model": model, "seed": recipe.seed}


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """The sources can be drawn from, and the tagging model can see what they show. Raises
    ConfigError.
    """
    from bimode.chat_renderer import ChatRenderer
    from bimode.renderer import Renderer, model_kind
    from data_curation.checks.filters import check_languages
    from data_curation.dedup.decide import check_indexes
    from data_curation.demo import TEXT_ONLY
    from data_curation.sources.listing import check_layouts
    from data_curation.sources.shards import plan_draws
    from pipelines.curate_models import tagger_lessons

    plan_draws(recipe.curate, recipe.seed)
    if "sources" in inputs:
        check_layouts(recipe.curate.sources, inputs["sources"])
    check_languages(recipe.curate.filter.languages)
    check_indexes(indexes(recipe.curate.dedup.against))
    pictured = [
        at
        for at, source in enumerate(recipe.curate.sources)
        if source.family and source.family not in TEXT_ONLY
    ]
    if not recipe.curate.tags:
        return
    tagger_lessons(recipe)
    for at in range(len(recipe.curate.rollouts.models)):
        with config_errors(f"curate.rollouts.models.{at}"):
            _ = Renderer(
                inputs[f"tagger-{at}"]
            ).tokens  # refuses another kind of model, and one without think tags
    if "judge" in inputs:
        with config_errors("curate.judge.model"):
            judge = ChatRenderer(inputs["judge"])
            _ = judge.prompt_text(
                "", 0
            )  # refuses what is no model, and one without a chat template
    if "teacher" in inputs:
        with config_errors("curate.traces.model"):
            _ = Renderer(inputs["teacher"]).tokens
    for role, model in inputs.items():
        if pictured and role.startswith(("base", "tagger")) and model_kind(model) == "text":
            fix = f"asks about images, and {model} is a text model; use {' or '.join(TEXT_ONLY)}"
            raise ConfigError(
                f"curate.sources.{pictured[0]}.family",
                recipe.curate.sources[pictured[0]].family,
                fix,
            )


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Runs the whole flow; what is in the run's `cache/` is neither read nor sampled again,
    whatever else has changed.
    """
    from bimode.inputs.prompt_limits import PromptModel
    from data_curation.dedup.decide import decide, write_index
    from data_curation.publishing.alerts import alerts, warn_about_files, warn_about_sources
    from data_curation.publishing.publish import publish
    from data_curation.publishing.published import UNPUBLISHED
    from data_curation.publishing.report import ReportContext, read_costs, read_versions, render
    from data_curation.sources.ingest import ingest
    from data_curation.store import Store
    from data_curation.tagging.cross_fit import leave_out_folds
    from pipelines.harness import package_versions
    from pipelines.progress import kept_first, log_line, track

    curate, cache, scratch = recipe.curate, stage.run / "cache", stage.work / ".scratch"
    model = PromptModel(inputs["base"].absolute(), recipe.model.max_model_len)
    shards = shards_of(recipe, inputs)
    shutil.rmtree(stage.path / UNPUBLISHED, ignore_errors=True)  # of an earlier run
    with track("curate: read", total=len(shards), unit="shard") as bar:
        files = ingest(shards, curate, cache / "candidates", kept_first(bar), model)
    store, decisions = Store(files, scratch), scratch / "decisions.parquet"
    decided = decide(files, indexes(curate.dedup.against), curate.dedup, decisions)
    store.add_overlay(decisions)
    if curate.cross_fit_fold:
        store.add_overlay(leave_out_folds(store, curate.cross_fit_fold, scratch / "folds.parquet"))
    if curate.tags:
        tag(recipe, store, inputs, cache, scratch)
        mix_rows(recipe, store, scratch)
    short = round(decided.items * (1 - (decided.by_ngram or 0.0)))
    facts = ReportContext(
        eval_items=decided.items,
        eval_too_short=short,
        costs=read_costs(cache),
        versions=read_versions(stage.path),
        packages=package_versions(),
    )
    try:
        published = publish(store, curate, splits_of(recipe), stage.work, recipe.name)
    except StarvedError as why:
        facts = warned(facts, warn_about_sources(store, curate))
        page = replace(facts, warnings=(f"Nothing was published: {why}", *facts.warnings))
        raise StarvedError(f"{why}; {leave_rejects(store, stage, page)}") from None
    write_index(store, stage.work / "index.parquet", recipe.name)
    unused = warn_about_files(store, files_of(shards))
    facts = warned(facts, (*alerts(store, published, curate), *unused))
    write_atomic(stage.work / "report.html", render(store, published, facts))
    counts = asdict(published) | asdict(decided) | {"reasoning_share": published.reasoning_share}
    store.close()
    shutil.rmtree(scratch)
    log_line(published.summary())
    names = (
        "data",
        "tags",
        "rejects",
        "index.parquet",
        "README.md",
        "croissant.json",
        "report.html",
    )
    return StageResult(outputs=names, counts=counts)


def warned(facts: ReportContext, lines: Sequence[str]) -> ReportContext:
    """Says `lines`, and has them stand on the page too."""
    from pipelines.progress import log_line

    for line in lines:
        log_line(line)
    return replace(facts, warnings=tuple(lines))


def leave_rejects(store: Store, stage: StageDir, facts: ReportContext) -> str:
    """Puts what a run without anything to publish has found where it can be looked into, and says
    where.
    """
    from data_curation.publishing.publish import write_rejects
    from data_curation.publishing.published import UNPUBLISHED
    from data_curation.publishing.report import render

    write_atomic(stage.work / "report.html", render(store, write_rejects(store, stage.work), facts))
    store.close()
    shutil.rmtree(stage.work / ".scratch")
    place = stage.work.replace(stage.path / UNPUBLISHED)
    return f"rejects and report.html are in {place}, and `bimode explain` tells each row"


def splits_of(recipe: Recipe) -> set[str]:
    """The splits that the sources feed."""
    from bimode.storage.dataset import SPLITS

    sources, generated = (
        recipe.curate.sources,
        any(source.family for source in recipe.curate.sources),
    )
    return {source.split for source in sources if source.path} | set(SPLITS if generated else ())


def shards_of(recipe: Recipe, inputs: dict[str, Path]) -> list[Shard]:
    """What is to be read and drawn, in the order that decides which of equal rows stays: sources as
    in the recipe, then names.
    """
    from data_curation.sources.listing import file_shards
    from data_curation.sources.shards import plan_draws

    files = file_shards(recipe.curate.sources, inputs["sources"]) if "sources" in inputs else []
    return [*files, *plan_draws(recipe.curate, recipe.seed)]


def files_of(shards: Sequence[Shard]) -> list[tuple[str, str]]:
    """The source and the name of each file that is read, once."""
    from data_curation.sources.layouts import source_name
    from data_curation.sources.shards import FileShard

    files = [shard for shard in shards if isinstance(shard, FileShard)]
    return list(dict.fromkeys((source_name(f.source), f.part.file.name) for f in files))


def indexes(runs: Sequence[str]) -> list[Path]:
    """What earlier runs published, in their directories."""
    return [Path(run) / "curate" / "index.parquet" for run in runs]


def tag(recipe: Recipe, store: Store, inputs: dict[str, Path], cache: Path, scratch: Path) -> None:
    """Own traces are checked, then rows are tagged: by attempts in both modes where a verifier can
    mark them, by a judge else.
    """
    import pyarrow as pa

    from data_curation.sampling.attempts import MODES, sample_rollouts
    from data_curation.tagging import cross_fit
    from data_curation.tagging.tagging import (
        Sampled,
        choose_rows,
        objective_rows,
        reject_traceless,
        tag_rows,
        warn_about_attempts,
    )
    from data_curation.traces.filter import refuse_traces
    from pipelines import curate_models
    from pipelines.progress import counted, log_line, track, until_loaded

    curate, taggers = recipe.curate, curate_models.taggers(recipe, inputs)
    store.add_overlay(
        refuse_traces(store, curate.traces, curate.filter, scratch / "own-traces.parquet")
    )
    seen = [cross_fit.questions(files) for files in curate_models.tagger_lessons(recipe)]
    dealt, known = cross_fit.assign_to_models(objective_rows(store), seen)
    chosen = choose_rows(pa.concat_tables(dealt), curate.tag_rows)
    if warning := warn_about_attempts(chosen, curate):
        log_line(warning)
    total = chosen.num_rows * len(MODES) * curate.rollouts.n
    sampled, engines = [], counted(curate.rollouts.concurrency, "engine")
    with track("curate: rollouts", total=total, unit="rollout") as bar:
        for tagger, rows in zip(taggers, cross_fit.assign_to_models(chosen, seen)[0], strict=True):
            wanted = rows.num_rows * len(MODES) * curate.rollouts.n
            advance = until_loaded(bar, wanted, f"curate: loading {tagger.name} into {engines}")
            sampled.append(
                Sampled(
                    tagger, rows, sample_rollouts(store, rows, tagger, cache / "rollouts", advance)
                )
            )
    store.add_overlay(tag_rows(store, sampled, known, curate, scratch / "tags.parquet"))
    ask_judge(recipe, store, inputs, cache, scratch, scratch.parent / "tags")
    if "teacher" in inputs:
        write_traces(recipe, store, inputs, cache, scratch)
    store.add_overlay(reject_traceless(store, scratch / "traceless.parquet"))


def ask_judge(
    recipe: Recipe, store: Store, inputs: dict[str, Path], cache: Path, scratch: Path, tags: Path
) -> None:
    """Open questions are tagged by the judge, which is compared with pass counts; where none is
    named they are set aside.

    The votes are published in the folder `tags`.
    """
    from data_curation.tagging import judge
    from pipelines import curate_models
    from pipelines.progress import counted, kept_first, log_line, track, until_loaded

    store.add_overlay(judge.set_aside(store, "judge" in inputs, scratch / "set-aside.parquet"))
    if "judge" not in inputs:
        return
    who, replies = curate_models.judge(recipe, inputs["judge"]), cache / "judge"
    chosen, known = (
        judge.choose_open(store),
        judge.choose_tagged(store, who.config.calibration_rows),
    )
    with track("curate: judge", total=chosen.num_rows + known.num_rows, unit="question") as bar:
        engines = counted(who.config.concurrency, "engine")
        advance = until_loaded(bar, chosen.num_rows, f"curate: loading {who.name} into {engines}")
        verdicts = list(judge.sample_verdicts(store.files, chosen, who, replies, advance))
        store.add_overlay(judge.tag_open(verdicts, who, scratch / "verdicts.parquet"))
        judge.publish_verdicts(verdicts, tags)
        if warning := judge.unparsed_warning(verdicts):
            log_line(warning)
        log_line(
            judge.compared(
                store, judge.sample_verdicts(store.files, known, who, replies, kept_first(bar))
            )
        )


def write_traces(
    recipe: Recipe, store: Store, inputs: dict[str, Path], cache: Path, scratch: Path
) -> None:
    """A teacher, or the tagging model itself, writes the traces that are missing."""
    from data_curation.traces import generate
    from pipelines import curate_models
    from pipelines.progress import counted, log_line, track, until_loaded

    teacher = curate_models.teacher(recipe, inputs["teacher"], inputs["base"])
    outcomes = generate.Outcomes()
    chosen = generate.choose_rows(store, recipe.curate, teacher.config)
    with track("curate: traces", total=chosen.num_rows, unit="row") as bar:
        engines = counted(teacher.config.concurrency, "engine")
        advance = until_loaded(
            bar, chosen.num_rows, f"curate: loading {teacher.name} into {engines}"
        )
        written = generate.sample_traces(store.files, chosen, teacher, cache / "traces", advance)
        store.add_overlay(
            generate.write_traces(
                outcomes.counted(written), teacher.name, scratch / "traces.parquet"
            )
        )
    log_line(f"curate: {outcomes}")


def mix_rows(recipe: Recipe, store: Store, scratch: Path) -> None:
    """Leaves out the train questions that `curate.mix` does not take, and says what it lacks."""
    from data_curation.mix import leave_out
    from pipelines.progress import log_line

    found, lines = leave_out(
        store, recipe.curate.mix, recipe.seed, recipe.curate.paired_share, scratch / "mix.parquet"
    )
    store.add_overlay(found)
    for line in lines:
        log_line(line)


if __name__ == "__main__":
    from pipelines import main

    main("curate")
