"""Curation: questions in, tagged bi-mode Parquet out (R-4B, section 2.1).

Read, check, filter (one task a shard) -> repeats and contamination -> rollouts in both modes ->
tags -> formats -> a new version.

    python -m pipelines.curate pipelines/recipes/tiny.toml --out runs/demo

Shards and rollouts are kept in DIR/cache by what decides them: a second run computes only new ones.
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
    from data_curation.publishing.published import Published
    from data_curation.publishing.report import ReportContext
    from data_curation.sources.shards import Shard
    from data_curation.store import Store


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """Return the list of source files with their digests, and the models that are sampled."""
    from data_curation.sources.listing import list_sources
    from pipelines.curate_models import model_inputs

    found = model_inputs(recipe, run)
    if any(source.path for source in recipe.curate.sources):
        found["sources"] = list_sources(recipe.curate.sources, run / "cache" / "sources.json")
    return found


def config(recipe: Recipe) -> Any:
    """Return the settings that the data depends on."""
    model = {"dtype": recipe.model.dtype, "max_model_len": recipe.model.max_model_len}
    return {"curate": recipe.curate.settings(), "model": model, "seed": recipe.seed}


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """Raise ConfigError if a source cannot be read, or the tagging model cannot take its
    questions.
    """
    from data_curation.checks.filters import check_languages
    from data_curation.dedup.decide import check_indexes
    from data_curation.sources.listing import check_layouts
    from data_curation.sources.shards import plan_draws
    from pipelines.curate_models import tagger_lessons

    plan_draws(recipe.curate, recipe.seed)
    if "sources" in inputs:
        check_layouts(recipe.curate.sources, inputs["sources"])
    check_languages(recipe.curate.filter.languages)
    check_indexes(indexes(recipe.curate.dedup.against))
    if recipe.curate.tags:
        tagger_lessons(recipe)
        _check_models(recipe, inputs)


def _check_models(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """Refuse models of another kind, models without think tags or chat template, and text models
    for questions about images.
    """
    from bimode.chat_renderer import ChatRenderer
    from bimode.renderer import Renderer, model_kind
    from data_curation.demo import TEXT_ONLY

    for at in range(len(recipe.curate.rollouts.models)):
        with config_errors(f"curate.rollouts.models.{at}"):
            _ = Renderer(inputs[f"tagger-{at}"]).tokens
    if "judge" in inputs:
        with config_errors("curate.judge.model"):
            ChatRenderer(inputs["judge"]).prompt_text("", 0)
    if "teacher" in inputs:
        with config_errors("curate.traces.model"):
            _ = Renderer(inputs["teacher"]).tokens
    families = {at: source.family for at, source in enumerate(recipe.curate.sources)}
    pictured = [at for at, name in families.items() if name and name not in TEXT_ONLY]
    for role, model in inputs.items():
        if pictured and role.startswith(("base", "tagger")) and model_kind(model) == "text":
            fix = f"asks about images, and {model} is a text model; use {' or '.join(TEXT_ONLY)}"
            at = pictured[0]
            raise ConfigError(f"curate.sources.{at}.family", families[at], fix)


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Run the whole curation. Work in the run's `cache/` is neither read nor sampled again."""
    from bimode.inputs.prompt_limits import PromptModel
    from data_curation.dedup.decide import decide
    from data_curation.publishing.published import UNPUBLISHED
    from data_curation.publishing.report import ReportContext, read_costs, read_versions
    from data_curation.sources.ingest import ingest
    from data_curation.store import Store
    from data_curation.tagging.cross_fit import leave_out_folds
    from pipelines.curate_models import tag
    from pipelines.harness import package_versions
    from pipelines.progress import kept_first, track

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
        leave_out_folds(store, curate.cross_fit_fold)
    if curate.tags:
        tag(recipe, store, inputs, cache, stage.work / "tags")
        mix_rows(recipe, store)
    facts = ReportContext(
        eval_items=decided.items,
        eval_too_short=round(decided.items * (1 - (decided.by_ngram or 0.0))),
        costs=read_costs(cache),
        versions=read_versions(stage.path),
        packages=package_versions(),
    )
    published = publish_version(recipe, store, stage, facts, shards)
    counts = asdict(published) | asdict(decided) | {"reasoning_share": published.reasoning_share}
    names = ("data", "tags", "rejects")
    files_written = ("index.parquet", "README.md", "croissant.json", "report.html")
    return StageResult(outputs=(*names, *files_written), counts=counts)


def publish_version(
    recipe: Recipe, store: Store, stage: StageDir, facts: ReportContext, shards: Sequence[Shard]
) -> Published:
    """Write data, rejects, index and report, and close the store. Raises StarvedError if a split is
    empty; then rejects and report are kept aside.
    """
    from data_curation.dedup.decide import write_index
    from data_curation.publishing.alerts import alerts, warn_about_files, warn_about_sources
    from data_curation.publishing.publish import publish
    from data_curation.publishing.report import render
    from pipelines.progress import log_line

    curate = recipe.curate
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
    store.close()
    shutil.rmtree(stage.work / ".scratch")
    log_line(published.summary())
    return published


def warned(facts: ReportContext, lines: Sequence[str]) -> ReportContext:
    """Log `lines` and add them to the page."""
    from pipelines.progress import log_line

    for line in lines:
        log_line(line)
    return replace(facts, warnings=tuple(lines))


def leave_rejects(store: Store, stage: StageDir, facts: ReportContext) -> str:
    """Keep rejects and report of a run that published nothing; return where they are."""
    from data_curation.publishing.publish import write_rejects
    from data_curation.publishing.published import UNPUBLISHED
    from data_curation.publishing.report import render

    write_atomic(stage.work / "report.html", render(store, write_rejects(store, stage.work), facts))
    store.close()
    shutil.rmtree(stage.work / ".scratch")
    place = stage.work.replace(stage.path / UNPUBLISHED)
    return f"rejects and report.html are in {place}, and `bimode explain` tells each row"


def splits_of(recipe: Recipe) -> set[str]:
    """Return the splits that the sources feed; generated questions feed all."""
    from bimode.storage.dataset import SPLITS

    sources = recipe.curate.sources
    if any(source.draws for source in sources):
        return set(SPLITS)
    return {source.split for source in sources}


def shards_of(recipe: Recipe, inputs: dict[str, Path]) -> list[Shard]:
    """Return the shards in the order that decides which of equal rows stays: sources as in the
    recipe, then names.
    """
    from data_curation.sources.listing import file_shards
    from data_curation.sources.shards import plan_draws

    files = file_shards(recipe.curate.sources, inputs["sources"]) if "sources" in inputs else []
    return [*files, *plan_draws(recipe.curate, recipe.seed)]


def files_of(shards: Sequence[Shard]) -> list[tuple[str, str]]:
    """Return source and name of each file, once."""
    from data_curation.sources.layouts import source_name
    from data_curation.sources.shards import FileShard

    files = [shard for shard in shards if isinstance(shard, FileShard)]
    return list(dict.fromkeys((source_name(f.source), f.part.file.name) for f in files))


def indexes(runs: Sequence[str]) -> list[Path]:
    """Return the indexes of what earlier runs published."""
    return [Path(run) / "curate" / "index.parquet" for run in runs]


def mix_rows(recipe: Recipe, store: Store) -> None:
    """Reject the train questions that `curate.mix` does not take, and log shortages."""
    from data_curation.mix import leave_out
    from pipelines.progress import log_line

    curate = recipe.curate
    for line in leave_out(store, curate.mix, recipe.seed, curate.paired_share):
        log_line(line)


if __name__ == "__main__":
    from pipelines import main

    main("curate")
