"""Which files of ours one step of reinforcement learning runs through, in reading order.

    python -m tests.step_files            the list
    python -m tests.step_files --write    and into docs/architecture.md

The smoke recipe is run (synchronous, default algorithm), and every function of ours that is called
between two pushes of weights is noted, in the driver, the rollout workers and the learner's rank. A
profiler
in each process appends the file of each call, with the time, to a file of its own; the driver's
calls of `WeightUpdates.push` say when the step began and ended.
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
import os, sys, threading, time
ROOT, OUT = {root!r}, {out!r}
seen = set()

def note(frame, event, arg):
    if event != "call":
        return
    code = frame.f_code
    name = code.co_filename
    if not name.startswith(ROOT) or "/.venv" in name:
        return
    key = (int(time.time() * 1000), name, code.co_name)
    if key in seen:
        return
    seen.add(key)
    with open(os.path.join(OUT, str(os.getpid())), "a") as file:
        file.write("%d %s %s\\n" % key)

sys.setprofile(note)
threading.setprofile(note)
"""
# where a reader begins, and where each process enters
ORDER = ("pipelines/bpo.py", "pipelines/", "actors/rl_workers.py", "actors/event_loop.py")
ORDER += ("actors/rollout/loop.py", "actors/rollout/", "bimode/rl/scheduler.py", "bimode/rl/ledger")
ORDER += ("actors/weights/", "actors/learner/", "bimode/learner/", "bimode/algorithms/")


def run_smoke(folder: Path, profiler: Path) -> None:
    """Runs the recipe; BPO, alone, with the profiler in each process."""
    base = [sys.executable, "-m"]
    settings = ["--set", "bpo.steps=3", "--set", "bpo.checkpoint_every=9"]
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
        calls.append((int(tick), str(Path(name).relative_to(REPO)), function))
    return sorted(calls)


def files_of_step(calls: list[tuple[int, str, str]]) -> dict[str, list[str]]:
    """Functions by file, from the second push of weights to the third: the engines have loaded."""
    push = ("actors/weights/update.py", "push")
    pushes = [tick for tick, name, function in calls if (name, function) == push]
    begin, end = pushes[1], pushes[2]
    found = defaultdict[str, list[str]](list)
    for tick, name, function in calls:
        if begin <= tick < end and function != "<module>" and function not in found[name]:
            found[name].append(function)
    return {name: functions for name, functions in found.items() if functions}


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
        print(f"   {name}: {', '.join(found[name][:9])}", file=sys.stderr)
    if "--write" in arguments:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(before + BEGIN + "".join(lines) + END + after)


if __name__ == "__main__":
    main(sys.argv[1:])
