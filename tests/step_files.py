"""Which files of ours one step of reinforcement learning runs through, in reading order.

    python -m tests.step_files            the list
    python -m tests.step_files --write    and into docs/architecture.md

The smoke recipe is run (synchronous, default algorithm), and every function of ours that is called
between its last two pushes of weights is noted, in the driver, the rollout workers and the
learner's rank: by then all of them have started. Each function is compiled with a first line that
appends its name and the time to a file of its process. `sys.setprofile` would miss the threads that
Ray starts for an actor's calls.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "architecture.md"
BEGIN, END = "<!-- step: begin -->\n", "<!-- step: end -->\n"
RECIPE = "pipelines/recipes/smoke.toml"
PROFILER = """
import ast, builtins, os, time
from importlib.machinery import SourceFileLoader
ROOT, OUT = {root!r}, {out!r}
seen, get_code = set(), SourceFileLoader.get_code

def note(name, function):
    key = (int(time.time() * 1000), name, function)
    if key not in seen:
        seen.add(key)
        with open(os.path.join(OUT, str(os.getpid())), "a") as file:
            file.write("%d %s %s\\n" % key)

def noted_code(self, module):
    if not self.path.startswith(ROOT) or "/.venv" in self.path:
        return get_code(self, module)
    tree = ast.parse(self.get_data(self.path))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            at = 1 if ast.get_docstring(node) is not None else 0
            call = "__note__(%r, %r)" % (self.path[len(ROOT):], node.name)
            node.body[at:at] = ast.parse(call).body
    return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

builtins.__note__ = note
SourceFileLoader.get_code = noted_code
"""
LOOP = "pipelines/bpo.py"  # entered once, before the first step, and so never seen
# where a reader begins, and where each process enters
ORDER = (LOOP, "pipelines/", "actors/rl_workers.py", "actors/event_loop.py")
ORDER += ("actors/rollout/loop.py", "actors/rollout/", "bimode/rl/scheduler.py", "bimode/rl/ledger")
ORDER += ("actors/weights/", "actors/learner/", "bimode/learner/", "bimode/algorithms/")


def run_smoke(folder: Path, profiler: Path) -> None:
    """Runs the recipe; BPO, alone, with the profiler in each process."""
    base = [sys.executable, "-m"]
    settings = ["--set", "bpo.steps=4", "--set", "bpo.checkpoint_every=9"]
    plain = dict(os.environ, PYTHONPATH=str(REPO))
    for stage in ("curate", "anneal"):
        command = [*base, f"pipelines.{stage}", RECIPE, "--out", str(folder), *settings]
        subprocess.run(command, cwd=REPO, env=plain, check=True, capture_output=True)
    watched = dict(plain, PYTHONPATH=f"{profiler}:{REPO}")
    command = [*base, "pipelines.bpo", RECIPE, "--out", str(folder), *settings]
    subprocess.run(command, cwd=REPO, env=watched, check=True, capture_output=True)


def calls_of(out: Path) -> list[tuple[int, str, str]]:
    """(millisecond, file, function) of all processes."""
    lines = [line for file in out.iterdir() for line in file.read_text().splitlines()]
    calls = []
    for line in lines:
        tick, name, function = line.split(" ")
        calls.append((int(tick), name, function))
    return sorted(calls)


def files_of_step(calls: list[tuple[int, str, str]]) -> dict[str, list[str]]:
    """Functions by file, from the last push but one to the last: what is loaded once is over."""
    push = ("actors/weights/update.py", "push")
    pushes = [tick for tick, name, function in calls if (name, function) == push]
    begin, end = pushes[-2:]
    found = defaultdict[str, list[str]](list, {LOOP: ["execute"]})
    for tick, name, function in calls:
        if begin <= tick < end and function not in found[name]:
            found[name].append(function)
    return found


def reading_order(name: str) -> tuple[int, str]:
    """The first entry of ORDER that fits."""
    fitting = [at for at, start in enumerate(ORDER) if name.startswith(start)]
    return (fitting[0] if fitting else len(ORDER), name)


def purpose(name: str) -> str:
    """The first sentence of its docstring."""
    text = ast.get_docstring(ast.parse((REPO / name).read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "run", Path(scratch) / "calls"
        out.mkdir()
        profiler = Path(scratch) / "profiler"
        profiler.mkdir()
        code = PROFILER.format(root=f"{REPO}/", out=str(out))
        (profiler / "sitecustomize.py").write_text(code)
        run_smoke(folder, profiler)
        found = files_of_step(calls_of(out))
    names = sorted(found, key=reading_order)
    lines = [f"{at}. `{name}`: {purpose(name)}\n" for at, name in enumerate(names, 1)]
    print("".join(lines) + f"{len(names)} files")
    for name in names:
        print(f"   {name}: {', '.join(found[name])}", file=sys.stderr)
    if "--write" in arguments:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(before + BEGIN + "".join(lines) + END + after)


if __name__ == "__main__":
    main(sys.argv[1:])
