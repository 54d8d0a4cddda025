"""A run directory and its manifests: the only thing that stages exchange (docs/formats.md).

A stage's manifest holds the digests of its inputs, its config, its counts and the digests of its
outputs. A stage is skipped when all four still hold. Times stand in manifests only, so that equal
work gives equal bytes elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

from bimode.errors import ConfigError


def digest_bytes(data: bytes) -> str:
    """Return blake2b of `data`, 16 bytes as hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_json(value: Any) -> str:
    """Return the digest of a JSON value, independent of the order of keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, default=str).encode())


def digest_path(path: Path) -> str:
    """Return the digest of a file, or of every file below a directory with its relative name."""
    if path.is_file():
        hasher = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
        return hasher.hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_json([(str(p.relative_to(path)), digest_path(p)) for p in files])


def digest_without_weights(model: Path) -> str:
    """Return the digest of a model directory without its weights: shape, tokenizer, processor and
    template.
    """
    weights = (".safetensors", ".safetensors.index.json", ".bin")
    others = [p for p in sorted(model.iterdir()) if p.is_file() and not p.name.endswith(weights)]
    return digest_json([(p.name, digest_path(p)) for p in others])


def digest_code(*packages: str) -> str:
    """Return the digest of the modules of `packages`, which lie beside this one."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return digest_json([(str(path.relative_to(root)), digest_path(path)) for path in files])


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never half of it.

    This holds after a power failure too, and on a full disk nothing half written is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{token_hex(8)}")
    try:
        with new.open("x") as file:  # follows no link; the umask decides its mode
            file.write(text)
        to_disk(new)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def own_file(path: str, flags: int) -> int:
    """Open a file that a run appends to, as an `opener`; where others may write, they may plant a
    link.

    Raises ConfigError for a link, for what is no plain file, for a file that has a second name, and
    for one that belongs neither to this user nor to the owner or the group of its folder.
    """
    planted = ConfigError("--out", path, "is no plain file of this run; remove it")
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe or socket
            raise planted from None
        raise
    status = os.fstat(handle)
    folder = os.stat(os.path.dirname(path) or ".")
    is_plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    is_groups = status.st_gid == folder.st_gid and not folder.st_mode & stat.S_IWOTH
    if not is_plain or not (status.st_uid in (os.geteuid(), folder.st_uid) or is_groups):
        os.close(handle)
        raise planted
    return handle


def remove_half_written(folder: Path) -> None:
    """Remove the files named `.partial*` below `folder`, which nobody reads."""
    for path in list(folder.rglob(".partial*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def to_disk(*paths: Path) -> None:
    """Wait until files, or the names in folders (not what is in those), are safe from a power
    failure.
    """
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.ENOTSUP,
            ):  # some mounted buckets know no such thing
                raise
        finally:
            os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None if there is no such file. Raises ConfigError where
    it holds anything else.
    """
    if not path.is_file():
        return None
    with suppress(ValueError):
        if isinstance(found := json.loads(path.read_text()), dict):
            return found
    raise ConfigError(
        path.name, path, "is damaged, half copied, or not ours; copy it again, or take it away"
    )


def whole_lines(path: Path) -> list[str]:
    """Return the whole lines of a file that another process appends to; none if it is absent."""
    return path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []


def claimed(claim: Path) -> dict[str, Any] | None:
    """Return the work that `claim` is for: digests of a config and of inputs."""
    found = read_json(claim)
    return found and {key: value for key, value in found.items() if key != "settings"}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs between two claims: keys of the recipe with old and new values, then
    inputs by name.
    """
    keys = list(_differences(old.get("settings"), new["settings"]))
    inputs = [
        f"input {name}" for name, _, _ in _differences(old.get("inputs", {}), new.get("inputs", {}))
    ]
    return (
        ", ".join([f"{key} ({was}, now {now})" for key, was, now in keys if key] + inputs)
        or "config or inputs"
    )


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield ``("bpo.optim.lr", 1e-3, 1e-4)`` for each difference of two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


@dataclass(frozen=True, slots=True)
class StageDir:
    """The folder of one stage in a run directory.

    Inputs are named paths, e.g. ``{"data": DIR/curate/data, "model": DIR/anneal/model}``, whose
    digests are taken once, before the stage reads them; outputs are paths inside the folder.
    """

    run: Path
    stage: str

    @property
    def path(self) -> Path:
        return self.run / self.stage

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def work(self) -> Path:
        """The folder that the stage writes into now."""
        return self.path

    def begin(self) -> None:
        """Mark the stage as unfinished before it works."""
        self.manifest.unlink(missing_ok=True)

    def is_current(self, config: Any, inputs: Mapping[str, str]) -> bool:
        """True if the manifest's config and `inputs` (digests) are these, and its outputs those on
        disk now.
        """
        if (entry := read_json(self.manifest)) is None:
            return False
        if entry["config_digest"] != digest_json(config) or entry["inputs"] != inputs:
            return False
        return all(
            (self.path / name).exists() and digest_path(self.path / name) == digest
            for name, digest in entry["outputs"].items()
        )

    def claim(self, work: Mapping[str, Any], settings: Any = None) -> str:
        """Prepare the stage folder for work with this config and these inputs; return a line for
        the user, or "". `work` holds the two digests; `settings` is the config itself, saved beside
        them in claim.json. Work of another config or other inputs moves to DIR/replaced/STAGE-1,
        -2, ... If the same config and inputs are used again, that work is moved back, finished or
        not.
        """
        claim, replaced = self.path / "claim.json", self.run / "replaced"
        held = self.path.is_dir() and any(path != claim for path in self.path.iterdir())
        if held and claimed(claim) == work:
            return f"{self.stage}: going on from unfinished work in {self.path}"
        earlier = next(
            (
                p
                for p in sorted(replaced.glob(f"{self.stage}-*"))
                if claimed(p / claim.name) == work
            ),
            None,
        )
        aside = self._set_aside(replaced) if held else None
        if earlier:
            claim.unlink(missing_ok=True)
            earlier.replace(self.path)  # over nothing, or over a folder that is empty now
            there = f"; what was there is in {aside}" if aside else ""
            return (
                f"{self.stage}: earlier work of this config and these inputs is back from"
                f" {earlier}{there}"
            )
        new = {**work, "settings": settings}
        write_atomic(claim, json.dumps(new, indent=1))
        if aside is None:
            return ""
        changed = _changed(read_json(aside / claim.name) or {}, new)
        return f"{self.stage}: {changed} changed; starts anew, the earlier work is in {aside}"

    def _set_aside(self, replaced: Path) -> Path:
        replaced.mkdir(exist_ok=True)
        free = next(path for n in count(1) if not (path := replaced / f"{self.stage}-{n}").exists())
        return self.path.rename(free)

    def seal(
        self,
        config: Any,
        inputs: Mapping[str, str],
        outputs: tuple[str, ...],
        counts: Mapping[str, Any],
        started: float,
    ) -> None:
        """Write the manifest: the last act of a stage that succeeded.

        `inputs` are the digests of what it began from; `started` is `time.monotonic()`, since the
        system's clock may be set while a stage works.
        """
        seconds = round(time.monotonic() - started, 3)
        entry = {
            "stage": self.stage,
            "config": config,
            "config_digest": digest_json(config),
            "inputs": dict(inputs),
            "outputs": {name: digest_path(self.work / name) for name in outputs},
            "counts": dict(counts),
            "started": time.time() - seconds,
            "seconds": seconds,
        }
        write_atomic(self.work / self.manifest.name, json.dumps(entry, indent=1))

    def input_digests(self, inputs: Mapping[str, Path]) -> dict[str, str]:
        """Return the digest of each input. Raises ConfigError if an input does not exist."""
        for path in inputs.values():
            if not path.exists():
                where = path.relative_to(self.run) if path.is_relative_to(self.run) else path
                fix = f"has no {where}, which {self.stage} needs; run {where.parts[0]} first"
                raise ConfigError("--out", self.run, fix)
        return {key: digest_path(path) for key, path in inputs.items()}


@dataclass(frozen=True, slots=True)
class Provenance:
    """The run and the stage that made something, with its manifest, e.g.
    ``Provenance(Path("runs/a"), "anneal", {...})``.
    """

    run: Path
    stage: str
    manifest: Mapping[str, Any]


def provenance_of(model: Path) -> Provenance | None:
    """Return the finished stage that made `model`, in its place or in DIR/replaced; None if no
    stage made it.
    """
    folder = model.resolve().parent
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, ValueError):  # somebody else's file of that name
        return None
    if manifest is None or model.resolve().name not in manifest.get("outputs", ()):
        return None
    stage = str(manifest.get("stage"))
    if folder.name == stage:
        return Provenance(folder.parent, stage, manifest)
    is_aside = folder.parent.name == "replaced" and folder.name.startswith(f"{stage}-")
    return Provenance(folder.parent.parent, stage, manifest) if is_aside else None


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of a stage: names of its outputs (relative to its folder) and counts for the
    manifest.
    """

    outputs: tuple[str, ...]
    counts: Mapping[str, Any]


FORMAT = 2  # of a run directory; raised when an older one can no longer be read


def check_format(run: Path) -> None:
    """Raise ConfigError for a run directory that an earlier version of bimode made."""
    manifest = read_json(run / "manifest.json") or {}
    if "recipe" in manifest and manifest.get("format") != FORMAT:
        fix = "bimode 0.1.0 made it and is the last version that reads it; name another directory"
        raise ConfigError("DIR", run, fix)


def update_run_manifest(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Read DIR/manifest.json (or an empty one), let `change` edit it, and write it back
    atomically.
    """
    path = run / "manifest.json"
    manifest = read_json(path) or {"stages": {}}
    change(manifest)
    write_atomic(path, json.dumps(manifest, indent=1, default=str))
