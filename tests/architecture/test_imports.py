"""What each package may load, checked in fresh processes: a rule that nobody runs is a wish."""

from __future__ import annotations

import json
import pkgutil
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "vllm", "deepspeed")


def modules_of(package: str) -> list[str]:
    """Every module of `package` by its dotted name."""
    return [package, *(m.name for m in pkgutil.walk_packages([str(REPO / package)], f"{package}."))]


def source(module: str) -> str:
    """The text of a module or of a package's `__init__`."""
    path = REPO.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def loaded_by(modules: list[str], watched: tuple[str, ...]) -> dict[str, list[str]]:
    """Imports `modules` one after another in a new process: which of `watched` each of them was the
    first to load.
    """
    code = (
        "import importlib, json, sys\n"
        "modules, watched, found = *json.loads(sys.argv[1]), {}\n"
        "for name in modules:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    if new := sorted((set(sys.modules) - before) & set(watched)):\n"
        "        found[name] = new\n"
        "print(json.dumps(found))"
    )
    arguments = [sys.executable, "-c", code, json.dumps([modules, watched])]
    done = subprocess.run(arguments, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_bimode_loads_no_ray_vllm_or_deepspeed() -> None:
    """`bimode` is mathematics: it imports on a machine that has no engine at all."""
    assert loaded_by(modules_of("bimode"), ("ray", "vllm", "deepspeed")) == {}


def test_commands_load_no_torch_and_pipelines_no_engine() -> None:
    """What `python -m pipelines.X` imports before its work starts: torch would cost every command
    seconds. Every other module of the package imports on a head node without vLLM, DeepSpeed or a
    GPU.
    """
    modules = modules_of("pipelines")
    runnable = [m for m in modules if '__name__ == "__main__"' in source(m)]
    assert "pipelines.run" in runnable
    found = loaded_by([*runnable, *(m for m in modules if m not in runnable)], HEAVY)
    assert not set(found) & set(runnable)
    assert not {"vllm", "deepspeed"} & {name for loaded in found.values() for name in loaded}


def test_the_watch_sees_what_is_loaded() -> None:
    """The two tests above would notice: a module that does load a watched one is named."""
    assert loaded_by(["json", "sqlite3"], ("sqlite3",)) == {"sqlite3": ["sqlite3"]}


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """`bimode --help` within half a second of CPU time (the best of three), and no torch behind
    it.
    """
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        arguments = [sys.executable, "-X", "importtime", "-m", "pipelines", "--help"]
        done = subprocess.run(arguments, cwd=REPO, capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and "curate" in done.stdout, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    imported = {
        line.rsplit("|", 1)[-1].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if "|" in line
    }
    assert "typer" in imported
    assert not imported & {*HEAVY, "ray", "numpy", "pyarrow"}
    assert min(seconds) <= 0.5


@pytest.mark.parametrize("package", ["bimode", "data_curation", "actors", "cluster", "pipelines"])
def test_every_package_is_one(package: str) -> None:
    """Each folder says what it is for; without `__init__.py` the import rule would not see it."""
    first = (REPO / package / "__init__.py").read_text()
    assert first.startswith('"""')


def test_layers() -> None:
    """pipelines -> actors | data_curation | cluster -> bimode (the contracts of pyproject.toml)."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout
