"""docs/recipe.md says what bimode/config says: every key, its default, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bimode.config.common import ConfigModel
from bimode.config.curate import SourceConfig
from bimode.config.recipe import Recipe
from bimode.config.reference import render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"


def keys(section: ConfigModel, path: str = "") -> Iterator[tuple[str, str | None]]:
    """(dotted key, description) of every value below `section`."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, ConfigModel):
            yield from keys(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", field.description


def test_the_page_is_that_of_the_schema() -> None:
    """A key that changes without its page would mislead whoever writes a recipe."""
    assert PAGE.read_text() == render(), "docs/recipe.md is stale: make reference"


def test_every_key_says_what_it_means() -> None:
    """A key without a description would be a bare name on the page."""
    found = dict(keys(Recipe(name="t"))) | {
        f"source.{name}": f.description for name, f in SourceConfig.model_fields.items()
    }
    assert [key for key, description in found.items() if not description] == []
    assert {"bpo.optim.lr", "curate.tag.confidence", "source.weight"} <= set(found)


def test_setting_one_key_leaves_the_defaults_beside_it() -> None:
    """The defaults on the page are those of a section that is given in part, too."""
    whole = Recipe.of({"name": "t"})
    part = Recipe.of({"name": "t"}, ("bpo.optim.grad_clip=0.5", "anneal.learner.zero_stage=3"))
    assert part.bpo.optim.model_copy(update={"grad_clip": 1.0}) == whole.bpo.optim
    assert part.anneal.learner.model_copy(update={"zero_stage": 1}) == whole.anneal.learner
