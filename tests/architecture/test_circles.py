"""No file of ours imports another that imports it back, over any number of files: neither when it
is loaded nor, later, inside a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bimode", "data_curation", "actors", "cluster", "pipelines")


def imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, its name in a package) of what the code in `node` imports, except for type
    checkers.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((str(child.module), alias.name) for alias in child.names)
        yield from imports(child)


def circle(files: dict[str, str]) -> list[str]:
    """The modules of one circle among `files`, text by module; empty where there is none. `from
    package import module` reads the module: the package's own file may be half loaded.
    """
    graph = {
        importer: {
            f"{module}.{name}" if f"{module}.{name}" in files else module
            for module, name in imports(ast.parse(text))
        }
        for importer, text in files.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import a.second", "import a.first"),
        ("from a import second", "def f(): from a.first import x"),
    ],
)
def test_a_circle_is_seen(first: str, second: str) -> None:
    assert set(circle({"a.first": first, "a.second": second})) == {"a.first", "a.second"}
    assert circle({"a.first": first, "a.second": f"if TYPE_CHECKING:\n    {second}"}) == []


def test_no_file_imports_what_imports_it() -> None:
    paths = [path for package in PACKAGES for path in (REPO / package).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    assert circle({module: path.read_text() for module, path in modules.items()}) == []
