"""What README and docs show can be typed: commands and flags exist, Python imports, TOML is a
recipe, links lead somewhere.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from bimode import Recipe
from pipelines.__main__ import app
from tests.doc_commands import PAGES, blocks, commands

REPO = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
SNIPPETS = [text for _, text in blocks("toml")]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (REPO / page).parent
    links = LINK.findall((REPO / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []


def test_commands_have_the_flags_that_the_pages_give_them() -> None:
    group: Any = typer.main.get_command(app)
    wrong, seen = [], 0
    for command in commands():
        words = shlex.split(command.runnable.splitlines()[0], comments=True)
        if "bimode" not in words:
            continue
        name, *rest = words[words.index("bimode") + 1 :]
        seen += 1
        known = {flag for option in group.commands[name].params for flag in option.opts}
        wrong += [
            f"{command.text}: {word}" for word in rest if word[:2] == "--" and word not in known
        ]
    assert wrong == [] and seen > 10


@pytest.mark.parametrize("text", [text for _, text in blocks("python")])
def test_python_of_the_pages_imports(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("text", [t for t in SNIPPETS if "my_project" not in t])
def test_toml_of_the_pages_is_a_recipe(text: str) -> None:
    table = tomllib.loads(text)
    assert Recipe.of({"name": "t"} | table).name


def test_own_code_of_the_pages_is_named_by_keys_that_exist() -> None:
    for text in (t for t in SNIPPETS if "my_project" in t):
        examples = {"algo:ALGORITHM": "algorithm:ALGORITHM", "rewards:shape": "reward:shape"}
        examples |= {"log:Sink": "sink:Csv", "grading:grade": "verifier:grade"}
        for name, example in examples.items():
            text = text.replace(f"my_project.{name}", f"examples.{example}")
        assert Recipe.of({"name": "t"} | tomllib.loads(text)).name
