"""docs/recipe.md, written from the schema: every key of a recipe with its type, default and
meaning.

python -m bimode.config.reference > docs/recipe.md        (make reference)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from bimode import algorithms
from bimode.config.common import ConfigModel, Named
from bimode.config.curate import SourceConfig
from bimode.config.recipe import Recipe

HEAD = """\
# The recipe

Written by `make reference` from `bimode/config` and `bimode/algorithms`; a test fails where they
differ. A recipe is a TOML file. Every key has a default but `name`, and a source names a `family`,
a `generator` or a `path`; an unknown key, a wrong type or an impossible value is refused before
anything starts. `--set section.key=value` overrides one key and can be repeated; a list is written
as TOML, e.g. `--set 'evaluate.modes=["auto"]'`. A source is counted from 0: `--set
curate.sources.0.weight=2`.

The defaults are those of the tiny model. `pipelines/recipes/gpu.toml` is a complete recipe for a
large one. "Ours" marks a value that R-4B (arXiv 2508.21113) does not state. Counts are whole
numbers; tokens are those of the model's tokenizer.
"""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def render() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_tables(Recipe(name="name"), ""), ""])


def _tables(section: ConfigModel, path: str) -> Iterator[str]:
    """A heading, what the section is, a table of its plain keys; then the sections below it."""
    fields = type(section).model_fields
    yield f"## {f'`[{path}]`' if path else 'At the top'}\n"
    yield f"{_first_paragraph(section)}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    below = {
        name: value for name in fields if isinstance(value := getattr(section, name), ConfigModel)
    }
    yield from (
        _row(name, field, getattr(section, name))
        for name, field in fields.items()
        if name not in below
    )
    yield ""
    if "algorithm" in fields:
        yield from _algorithm_table()
    for name, value in below.items():
        yield from _tables(value, f"{path}.{name}" if path else name)
    if "sources" in fields:
        yield from _source_table(f"{path}.sources")


def _source_table(path: str) -> Iterator[str]:
    yield f"## `[[{path}]]`\n"
    yield "One source of questions; repeat the table for more.\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    yield from (
        _row(name, field, field.default) for name, field in SourceConfig.model_fields.items()
    )
    yield ""


def _algorithm_table() -> Iterator[str]:
    yield "Each algorithm, what it sets where the recipe does not, and what `decision` may be:\n"
    yield "| `algorithm` | its defaults | `decision` |\n|---|---|---|"
    for name in algorithms.NAMES:
        algorithm = algorithms.load(name)
        defaults = ", ".join(
            f"`{key} = {_toml(value)}`" for key, value in algorithm.defaults.items()
        )
        yield (
            f"| `{name}` | {defaults} | {', '.join(f'`{each}`' for each in algorithm.decisions)} |"
        )
    yield ""


def _row(name: str, field: FieldInfo, default: Any) -> str:
    shown = (
        "required" if field.is_required() else "none" if default is None else f"`{_toml(default)}`"
    )
    return f"| `{name}` | {type_words(field)} | {shown} | {field.description or ''} |"


def type_words(field: FieldInfo) -> str:
    """E.g. ``whole number > 0``, ``one of `"a"`, `"b"` ``, ``list of text``."""
    found = [
        (sign, getattr(at, key, None)) for at in field.metadata for key, sign in LIMITS.items()
    ]
    limits = ", ".join(f"{sign} {value:g}" for sign, value in found if value is not None)
    for validator in field.metadata:
        if named := _named(validator):
            return named
    return f"{_words(field.annotation)} {limits}".strip()


def _words(kind: Any) -> str:
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{_toml(value)}`" for value in arguments)
    if get_origin(kind) is tuple:
        inner = _words(arguments[0]).removeprefix("one of ")
        return (
            f"list of {inner}"
            if arguments[-1] is Ellipsis
            else f"list of {len(arguments)} {inner}s"
        )
    if NoneType in arguments:
        return _words(arguments[0])
    if isinstance(kind, type) and issubclass(kind, ConfigModel):
        return "tables, below"
    if get_origin(kind) is dict and arguments[1] is Any:
        return "table"
    if get_origin(kind) is dict:
        return f"table of {_words(arguments[1])}s".replace("texts", "text")
    if get_origin(kind) is Annotated:
        return next(filter(None, map(_named, kind.__metadata__)), _words(arguments[0]))
    return WORDS[kind]


def _named(validator: Any) -> str:
    """Return the text that lists the choices of a `Named` validator; "" for any other validator."""
    named = getattr(validator, "func", None)
    if not isinstance(named, Named):
        return ""
    own = '`"module:attribute"`'
    choices = ", ".join(f"`{_toml(name)}`" for name in named.names)
    return f"one of {choices}, or {own}" if choices else own


def _toml(value: Any) -> str:
    """`value` as it is written in a recipe; a table by its given keys."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, ConfigModel):
        return (
            "{"
            + ", ".join(
                f"{key} = {_toml(getattr(value, key))}" for key in sorted(value.model_fields_set)
            )
            + "}"
        )
    return json.dumps(value)


def _first_paragraph(section: ConfigModel) -> str:
    return " ".join((type(section).__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    print(render(), end="")
