"""docs/upstream.md lists what we use of other packages without their promise: names that begin with
an underscore, and what we put in place of theirs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bimode", "data_curation", "actors", "cluster", "pipelines")
PUBLIC = ("_replace",)  # of a named tuple
OURS_OR_PYTHONS = (*PACKAGES, "sys", "os")


def is_private(name: str) -> bool:
    """True of `_x` and `a._x.b`, not of `__x__`."""
    parts = [part for part in name.split(".") if part not in PUBLIC]
    return any(part.startswith("_") and not part.startswith("__") for part in parts)


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, e.g. `{"output": "vllm.v1.core.sched.output"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = ast.unparse(node.value)
            if called := re.fullmatch(r"import_without_gc\('([\w.]+)'\)", value):
                value = called.group(1)
            elif value in names and value.islower():
                value = names[value]
            else:
                continue
            names[ast.unparse(target)] = value
    return names


def full_name(node: ast.expr, names: dict[str, str], own: set[str]) -> str:
    """`node` by the name it has upstream; where that is no module of theirs, `._name` alone; empty
    for what is ours.
    """
    if not isinstance(node, ast.Attribute):
        return ""
    first, _, rest = ast.unparse(node).partition(".")
    if first in names and "(" not in rest:
        is_read = isinstance(node.ctx, ast.Load)
        is_listed = is_read and is_private(names[first]) and not is_private(rest)
        return names[first] if is_listed else f"{names[first]}.{rest}"
    return "" if first in ("self", "cls") and node.attr in own else f".{node.attr}"


def uses(text: str) -> Iterator[str]:
    """Private names of others that the code in `text` reads, and names of theirs that it sets."""
    tree = ast.parse(text)
    names = imported_names(tree)
    nodes = list(ast.walk(tree))
    own = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    yield from filter(is_private, names.values())
    inner = {n.value for n in nodes if isinstance(n, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            name = full_name(node, names, own)
            is_set = isinstance(node.ctx, ast.Store) and not name.startswith(".")
            is_whole = node not in inner or name.startswith(".")
            if name and (is_set or (is_private(name) and is_whole)):
                yield name
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            name = full_name(node.value, names, own)
            if name and not name.startswith("."):
                yield name


def found() -> set[tuple[str, str]]:
    """(name, file) of all our packages."""
    paths = sorted(path for package in PACKAGES for path in (REPO / package).rglob("*.py"))
    return {
        (name, str(path.relative_to(REPO)))
        for path in paths
        for name in uses(path.read_text())
        if name.split(".")[0] not in OURS_OR_PYTHONS
    }


def told() -> set[tuple[str, str]]:
    """The same from the tables of docs/upstream.md: a name, its files, why, what it waits for."""
    page = (REPO / "docs" / "upstream.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    return {(name, file) for name, files in rows for file in re.findall(r"`([^`]+)`", files)}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from ray._private import worker", ["ray._private.worker"]),
        ("import ray\nray._private.worker.x()", ["ray._private.worker.x"]),
        ("from vllm.v1 import output\noutput.strip = lambda: 0", ["vllm.v1.output.strip"]),
        ("def f(model):\n    model.config()._attn = 1", ["._attn"]),
        ("class A:\n    def f(self):\n        self._b = self._c", ["._c"]),
        ("d = import_without_gc('deepspeed')\nd.ops['x'] = 0", ["deepspeed.ops"]),
        ("from uvicorn import auto\nm: Any = auto\nm.Protocol = 1", ["uvicorn.auto.Protocol"]),
        ("import json\nself._x = json.loads(row._replace(a=1))", []),
    ],
)
def test_each_way_is_seen(code: str, names: list[str]) -> None:
    assert list(uses(code)) == names


def test_what_we_use_without_a_promise_is_listed() -> None:
    assert found() == told()
