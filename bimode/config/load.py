"""TOML and dotted overrides -> a config model, or one line that names the key, the value and the
fix. `Recipe.load` is the public way in.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bimode.errors import ConfigError
from bimode.inputs.text import other_encoding

Model = TypeVar("Model", bound=BaseModel)


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises ConfigError."""
    try:
        data = path.read_bytes()
        if found := other_encoding(data) or (
            "UTF-8 with a byte-order mark" if data.startswith(BOM_UTF8) else ""
        ):
            raise ConfigError("recipe", path, f"is {found}; save it as plain UTF-8")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        raise ConfigError(
            "recipe", path, f"no such file; here are {near}" if near else "no such file"
        ) from None
    except OSError as error:  # a folder, a file where a folder should be, no permission
        raise ConfigError(
            "recipe", path, f"cannot be read: {error.strerror}; name a TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("recipe", path, f"not a TOML file: {error}") from None


def overridden(
    table: dict[str, Any], overrides: tuple[str, ...] = (), seed: int | None = None
) -> dict[str, Any]:
    """Return `table` with ``a.b=c`` overrides applied in order. Raises ConfigError."""
    for override in overrides:
        _apply(table, override)
    return table if seed is None else table | {"seed": seed}


def validate(table: dict[str, Any], model: type[Model]) -> Model:
    """Make a `model` of `table`; the first problem becomes a ConfigError."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        # a misspelled key first: it may be why another one is missing
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise _as_config_error(problems[0], model) from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set", override, "write it as section.key=value")
    *parents, last = key.strip().split(".")
    at: Any = table
    for name in parents:
        at = at[_index(at, name, override)] if isinstance(at, list) else at.setdefault(name, {})
        if not isinstance(at, dict | list):
            raise ConfigError("--set", override, f"{name} is a value, not a section")
    place = _index(at, last, override) if isinstance(at, list) else last
    try:
        at[place] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        at[place] = text  # a bare word is a string


def _index(values: list[Any], name: str, override: str) -> int:
    if not name.isdecimal() or int(name) >= len(values):
        raise ConfigError(
            "--set", override, f"no entry {name}: the list has {len(values)}, counted from 0"
        )
    return int(name)


def _as_config_error(problem: Any, model: type[BaseModel]) -> ConfigError:
    path, value = [str(part) for part in problem["loc"]], problem["input"]
    own = problem.get("ctx", {}).get("error")
    if isinstance(
        own, ConfigError
    ):  # of a validator that looks at several keys of the section at `path`
        return ConfigError(".".join([*path, own.key]), own.value, own.fix)
    shown = (
        "(missing)"
        if problem["type"] == "missing"
        else "{...}"
        if isinstance(value, dict)
        else value
    )
    return ConfigError(".".join(path) or "recipe", shown, _fix(problem, path, model))


def _fix(problem: Any, path: list[str], model: type[BaseModel]) -> str:
    """What to write instead: pydantic's own words, or better ones."""
    kind, value = problem["type"], problem["input"]
    if kind in PLAIN:
        return PLAIN[kind]
    if kind in BOUNDS:
        return f"must be {BOUNDS[kind]}".format(**problem["ctx"])
    match kind:
        case "extra_forbidden":
            return _unknown_key(path, model)
        case "literal_error":
            return _other_word(value, problem["ctx"]["expected"])
        case "model_type" | "tuple_type":
            return _other_shape(kind, value, path)
        case "string_type":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return f"is text; write {json.dumps(str(value))}" if is_number else "is text"
        case "missing" if path[-1].isdecimal():
            return "the list lacks this entry"
        case "missing":
            where = f"in [{'.'.join(path[:-1])}]" if path[:-1] else "at the top of the recipe"
            return f'must be given; write {path[-1]} = "..." {where}'
    return str(problem["msg"]).removeprefix("Value error, ")


def _unknown_key(path: list[str], model: type[BaseModel]) -> str:
    *outer, name = path
    known = _known(outer, model)
    deeper = [
        ".".join([*outer, part, name]) for part in known if name in _known([*outer, part], model)
    ]
    near = [*_renamed(name, known), *difflib.get_close_matches(name, known, n=1), *deeper]
    if near:
        return f"unknown key; did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"unknown key; known here: {', '.join(known)}"


def _other_word(value: Any, expected: str) -> str:
    words = re.findall(r"'([^']*)'", expected)
    near = [*_renamed(value, words), *difflib.get_close_matches(str(value), words, n=1)]
    return f"use {expected}" + (f"; did you mean {near[0]}?" if near else "")


def _other_shape(kind: str, value: Any, path: list[str]) -> str:
    """A section or a list that was written as something else."""
    section = ".".join(part for part in path if not part.isdecimal())
    if kind == "tuple_type":
        shown = f"[[{section}]]" if isinstance(value, dict) else json.dumps([value])
        return f"is a list; write {shown}"
    shown = f"[[{section}]]" if path[-1].isdecimal() else f"[{section}]"
    return f"is a section; write {shown}"


PLAIN = {
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "too_long": "the list has too many entries",
    "int_type": "is a whole number",
    "int_parsing": "is a whole number",
    "int_from_float": "is a whole number",
    "float_type": "is a number",
    "float_parsing": "is a number",
    "bool_type": "is true or false",
    "bool_parsing": "is true or false",
}
BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}


# keys and values of earlier versions
RENAMED = {
    "fold": "cross_fit_fold",
    "direct_ok": "non_thinking_ok",
    "direct_poor": "non_thinking_poor",
    "check": "decontaminate",
    "is_half": "forced_as_sampled",
}


def _renamed(name: Any, known: list[str]) -> list[str]:
    """Today's name of `name`, where it is one of `known`."""
    new = RENAMED.get(str(name), "")
    return [new] if new in known else []


def _known(path: list[str], root: type[BaseModel]) -> list[str]:
    """Keys of the section at `path` of `root`, following nested models only."""
    model: Any = root
    for name in path:
        if name.isdecimal():  # an entry of a list, whose model is known from the list's annotation
            continue
        field = getattr(model, "model_fields", {}).get(name)
        candidates = (
            [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        )
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)
