"""TOML + dotted overrides -> `Recipe`, or one line that names the key, the value and the fix."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bimode.config import Recipe
from bimode.errors import ConfigError


def load_recipe(path: Path, overrides: tuple[str, ...] = (), seed: int | None = None) -> Recipe:
    """Reads `path`, applies ``a.b=c`` overrides in order, validates. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError("recipe", path, f"no such file; here are {near}" if near else "no such file") from None
    except (tomllib.TOMLDecodeError, IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError("recipe", path, f"not a TOML file: {error}") from None
    return build_recipe(table, overrides, seed)


def build_recipe(table: dict[str, Any], overrides: tuple[str, ...] = (), seed: int | None = None) -> Recipe:
    """`table` with ``a.b=c`` overrides applied in order, validated. Raises ConfigError."""
    for override in overrides:
        _apply(table, override)
    if seed is not None:
        table["seed"] = seed
    return validate(table)


def validate(table: dict[str, Any]) -> Recipe:
    """`table` as a Recipe; the first problem becomes a ConfigError."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise _as_config_error(error.errors()[0]) from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set", override, "write it as section.key=value")
    *parents, last = key.strip().split(".")
    at = table
    for name in parents:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise ConfigError("--set", override, f"{name} is a value, not a section")
    try:
        at[last] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        at[last] = text  # a bare word is a string


def _as_config_error(problem: Any) -> ConfigError:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path) or "recipe"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _known(path[:-1]), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(_known(path[:-1]))}"
        return ConfigError(key, problem["input"], f"unknown key; {hint}")
    value = "(missing)" if problem["type"] == "missing" else problem["input"]
    message = problem["msg"].removeprefix("Value error, ")
    return ConfigError(key, value if not isinstance(value, dict) else "{...}", message)


def _known(path: list[str]) -> list[str]:
    """Keys of the section at `path`, following nested models only."""
    model: Any = Recipe
    for name in path:
        field = getattr(model, "model_fields", {}).get(name)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)
