"""Every refusal names what the user can change: a key of a recipe, a flag or an argument, or the
variable of the environment.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from typer.main import get_command

from bimode.config.recipe import Recipe
from pipelines.__main__ import app

REPO = Path(__file__).parents[2]
PACKAGES = ("bimode", "actors", "cluster", "data_curation", "pipelines")
NAMING = {
    "ConfigError",
    "keyed",
    "permitted",
    "under",
    "one_of",
    "check_name",
}  # their first argument is a key
ARGUMENTS = {"recipe", "RECIPE", "MODEL", "DIR", "ID", "RAY_ADDRESS", "HOME", "--host and --port"}
ROLES = {
    "model",
    "data",
    "tokenizer",
}  # of what is given; whoever was given it puts the flag or the key in its place (`keyed`)
INNER = {
    "bimode/algorithms/__init__.py": {"algorithm"},  # `BpoConfig` puts its own path before it
    "bimode/grading/verify.py": {"verifier"},  # of a row, which is refused for it
    "bimode/grading/verifier_args.py": {"verifier_args"},
    # of a request, whose recipe's schema refuses such a value; a prompt is refused by its id
    "actors/rollout/worker.py": {"max_tokens", "prompt ID"},
    "actors/learner/sequences.py": {"row ID"},
    # of whichever stage the learner works for (`pipelines.failure`)
    "actors/learner/engines.py": {"learner.train"},
    "data_curation/sources/files.py": {
        "curate.sources.path"
    },  # of whichever source it is (`data_curation.sources.listing`)
    "data_curation/demo/text.py": {
        "tasks",
        "family",
    },  # the same (`data_curation.sources.shards`)
    "bimode/storage/run_dir.py": {"path.name"},  # of a file of a run that is damaged
}


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """All keys of a section and of those in it; of lists the first entry's."""
    for name, field in model.model_fields.items():
        yield f"{before}{name}"
        inner: Any = field.annotation
        sections = [
            part
            for part in (inner, *get_args(inner))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        for section in sections:
            entry = f"{before}{name}." + ("0." if section is not inner else "")
            yield from [entry.rstrip("."), *keys_of(section, entry)]
        if get_origin(inner) is tuple and not sections:
            yield f"{before}{name}.0"


def flags() -> set[str]:
    """Of every command."""
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    return {flag for command in commands for option in command.params for flag in option.opts}


def named_in(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The keys that the code in `tree` names, as regular expressions, and where: what an f-string
    fills in may be anything.
    """
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in NAMING and node.args:
            first = node.args[0]
            for key in (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,):
                key = constants.get(getattr(key, "id", ""), key)
                if isinstance(key, ast.Constant):
                    yield re.escape(str(key.value)), node
                elif isinstance(key, ast.JoinedStr):
                    parts = [
                        re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+"
                        for p in key.values
                    ]
                    yield "".join(parts), node


def unknown(text: str, known: set[str]) -> list[str]:
    """Keys that the code in `text` names and that fit none of `known`; in a section's own class
    they are its fields.
    """
    tree = ast.parse(text)
    fields: dict[ast.AST, set[str]] = {}
    for section in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        own = {
            node.target.id
            for node in section.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        fields |= dict.fromkeys(ast.walk(section), own)
    return [
        key
        for key, node in named_in(tree)
        if not any(re.fullmatch(key, one) for one in known | fields.get(node, set()))
    ]


def test_an_unknown_key_is_seen() -> None:
    text = (
        'raise ConfigError(f"{stage}.data", 1, "")\nraise ConfigError("bpo.modle", 1,'
        ' "")\nkeyed("--out" if x else "y")'
    )
    assert unknown(text, {"bpo.model", "--out"}) == [r".+\.data", r"bpo\.modle", "y"]
    assert unknown('KEY = "a.b"\nConfigError(KEY, 1, "")', {"a.b"}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_refusals_name_what_can_be_written(package: str) -> None:
    """`bpo.model = ...: no such path` once sent people to a key that no recipe has."""
    known = {*keys_of(Recipe), *flags(), *ARGUMENTS, *ROLES}
    found = {}
    for path in sorted((REPO / package).rglob("*.py")):
        name = str(path.relative_to(REPO))
        if lost := unknown(path.read_text(), known | INNER.get(name, set())):
            found[name] = lost
    assert found == {}
