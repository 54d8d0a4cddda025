"""Curation: questions in, tagged bi-mode Parquet out (R-4B, section 2.1).

Draw and check -> exact dedup and decontamination -> rollouts in both modes -> tags -> formats -> publish.

    python -m pipelines.curate pipelines/recipes/tiny.toml --out runs/demo
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config import Recipe
from bimode.errors import ConfigError
from bimode.rundir import StageDir, StageResult, digest_path, write_atomic

if TYPE_CHECKING:
    from data_curation.rollouts import Tagger


def inputs(recipe: Recipe, run: Path) -> dict[str, Path]:
    """The model that tags; nothing where the recipe tags nothing."""
    from pipelines.harness import base_model

    return {"base": base_model(recipe, run)} if recipe.curate.tags else {}


def config(recipe: Recipe) -> Any:
    """What the data depends on."""
    model = {"dtype": recipe.model.dtype, "max_model_len": recipe.model.max_model_len}
    return {"curate": recipe.curate.model_dump(mode="json"), "model": model, "seed": recipe.seed}


def check(recipe: Recipe, inputs: dict[str, Path]) -> None:
    """The sources can be drawn from, and the tagging model can see what they show. Raises ConfigError."""
    from bimode.codec import model_kind
    from data_curation.families import TEXT_ONLY
    from data_curation.sources import plan_draws

    plan_draws(recipe.curate)
    pictured = [source.family for source in recipe.curate.sources if source.family not in TEXT_ONLY]
    if pictured and recipe.curate.tags and model_kind(inputs["base"]) == "text":
        fix = f"asks about images, and model.base is a text model; use {' or '.join(TEXT_ONLY)}"
        raise ConfigError("curate.sources.family", pictured[0], fix)


def execute(recipe: Recipe, stage: StageDir, inputs: dict[str, Path]) -> StageResult:
    """Runs the whole flow; rollouts in the run's `cache/` are not sampled again, whatever else of the recipe has changed."""
    from data_curation.dedup import mark_repeats
    from data_curation.formats import mark_without_trace
    from data_curation.publish import publish
    from data_curation.report import render, warn_about_share
    from data_curation.rollouts import MODES, sample_rollouts
    from data_curation.sources import draw_candidates
    from data_curation.tagging import choose_rows, tag_candidates
    from pipelines.progress import say, track

    curate = recipe.curate
    with track("curate: draw", total=curate.train + curate.rl + curate.eval, unit="row") as bar:
        candidates = mark_without_trace(mark_repeats(draw_candidates(curate, recipe.seed, bar.advance)), curate)
    if curate.tags:
        tagger = make_tagger(recipe, inputs["base"])
        chosen = candidates.take(choose_rows(candidates, curate.tag_rows))
        total = chosen.num_rows * len(MODES) * curate.rollouts.n
        with track("curate: rollouts", total=total, unit="rollout") as bar:
            rollouts = sample_rollouts(chosen, tagger, stage.run / "cache" / "rollouts", bar.advance)
        candidates = tag_candidates(candidates, rollouts, tagger, curate)
    published = publish(candidates, curate, stage.path)
    if warning := warn_about_share(published):
        say(warning)
    write_atomic(stage.path / "report.html", render(candidates, published))
    counts = asdict(published) | {"drawn": candidates.num_rows, "reasoning_share": published.reasoning_share}
    return StageResult(outputs=("data", "tags", "rejects", "README.md", "report.html"), counts=counts)


def make_tagger(recipe: Recipe, model_dir: Path) -> Tagger:
    """The tagging model as curation samples it."""
    from actors.rollout_worker import RolloutWorker
    from cluster.placement import plan
    from data_curation.rollouts import Tagger

    [role] = plan("curate", recipe)
    model, path = recipe.model, model_dir.absolute()
    return Tagger(
        open_worker=partial(
            RolloutWorker, "tagger", path, max_model_len=model.max_model_len, dtype=model.dtype, seed=recipe.seed,
            sync="object_store",
        ),
        name=Path(model.base).name,
        digest=digest_path(path),
        dtype=model.dtype,
        max_model_len=model.max_model_len,
        sampling=recipe.curate.rollouts,
        seed=recipe.seed,
        options=role.options(),
    )  # fmt: skip


if __name__ == "__main__":
    from pipelines.cli import main

    main("curate")
