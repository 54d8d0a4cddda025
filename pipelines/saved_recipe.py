"""The recipe that a command means: a TOML file, or a run's directory, which keeps the one that it
was made by.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.errors import ConfigError
from bimode.storage.run_dir import check_format, read_json

if TYPE_CHECKING:
    from bimode.config.recipe import Recipe

SHIPPED = Path(__file__).parent / "recipes"


def refuse_bare_name(path: Path | None) -> Path | None:
    """Return `path` unchanged, or raise ConfigError for a bare name (such as `tiny`) without such a
    file; the message lists the recipes.
    """
    if path is None or path.parent != Path() or path.exists():
        return path
    folder = os.path.relpath(SHIPPED)
    there = {file.stem: f"{folder}/{file.name}" for file in SHIPPED.glob("*.toml")}
    there |= {file.stem: file.name for file in Path().glob("*.toml")}  # the user's own before ours
    near = difflib.get_close_matches(path.stem, there, n=1)
    nearest = f"; did you mean {there[near[0]]}?" if near else ""
    raise ConfigError("recipe", path, f"no such file; recipes are in {folder}/{nearest}")


def saved_recipe(run: Path) -> dict[str, Any] | None:
    """Return the recipe that made the directory `run`. Raises ConfigError."""
    check_format(run)
    recipe = (read_json(run / "manifest.json") or {}).get("recipe")
    return recipe if isinstance(recipe, dict) else None  # many tools write a file of that name


def recipe_and_run(recipe: Path | None, out: str | None) -> tuple[Path, str]:
    """Return RECIPE and --out of an evaluation, either of which may be left out: a run stands for
    both. Raises ConfigError.
    """
    if recipe is None:
        if not out or saved_recipe(Path(out)) is None:
            raise ConfigError(
                "RECIPE",
                "(missing)",
                "give a recipe or a run's directory, or --model and --data, or all three",
            )
        return Path(out), out
    if out is None and saved_recipe(recipe) is None:
        if not recipe.is_file():
            raise ConfigError(
                "RECIPE",
                recipe,
                "is neither a recipe nor a run's directory: it has no manifest.json with one",
            )
        raise ConfigError("--out", "(missing)", "name a run directory")
    return recipe, str(recipe) if out is None else out


def load(path: Path, overrides: tuple[str, ...], seed: int | None) -> Recipe:
    """Load the recipe at `path`, which may be a run's directory. Raises ConfigError."""
    from bimode.config.recipe import Recipe
    from pipelines.progress import log_line

    if (recipe := saved_recipe(path)) is None:
        return Recipe.load(path, overrides, seed)
    log_line(f"bimode: by the recipe in {path / 'manifest.json'}")
    return Recipe.of(recipe, overrides, seed)
