"""The files of the code that a cluster is given: what git tracks, and no key that lies beside
it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from cluster.environment import PACKAGES

NEEDLESS = ("tests", "docs", "benchmarks", "runs")  # folders that no run reads
WITHOUT_GIT = (*PACKAGES, "assets")  # of an unpacked archive nobody knows what was put into it
KEYS = (
    ".env*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keytab",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    "*credentials*",
    "*secret*",
    "auth_token*",
)


def shipped_files(root: Path) -> list[PurePath]:
    """Returns the files that are uploaded, relative to `root`; links out of it are left aside."""
    names = _git(root, "--cached")
    if not names:
        folders = [root / name for name in WITHOUT_GIT]
        found = [path for folder in folders for path in folder.rglob("*")] + [*root.glob("*.toml")]
        names = [str(path.relative_to(root)) for path in found]
        names = [
            name
            for name in names
            if not any(map(is_key, (PurePath(name), *PurePath(name).parents)))
        ]
    return [PurePath(name) for name in sorted(names) if _is_shipped(root, PurePath(name))]


def is_key(path: PurePath) -> bool:
    """Whether the name of a file is one that keys and passwords have."""
    is_code = path.suffix == ".py"  # secrets.py is a module
    return not is_code and any(fnmatch(path.name.lower(), pattern) for pattern in KEYS)


def left_behind(root: Path) -> list[str]:
    """Returns untracked code below `root`, which a job would miss if it were part of a run."""
    names = _git(root, "--others", "--exclude-standard")
    return [name for name in names if name.endswith(".py") and _is_shipped(root, PurePath(name))]


@contextmanager
def shipped_copy(root: Path) -> Iterator[Path]:
    """Copies what is uploaded into a folder that only this user reads, and lasts for the block.

    Says what stays behind, and which of the tracked files looks like a key.
    """
    files = shipped_files(root)
    if code := left_behind(root):
        shown = ", ".join(code[:5]) + (f" and {len(code) - 5} more" if len(code) > 5 else "")
        print(f"cluster: not uploaded, since git does not track it: {shown}", file=sys.stderr)
    if keys := [str(path) for path in files if is_key(path)]:
        print(f"cluster: uploaded, and looks like a key: {', '.join(keys)}", file=sys.stderr)
    with TemporaryDirectory(prefix="bimode-code-") as folder:
        for path in files:
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target)
        yield Path(folder)


def _is_shipped(root: Path, path: PurePath) -> bool:
    parts = path.parts
    if parts[0] in NEEDLESS or parts[0].startswith(".venv") or "__pycache__" in parts:
        return False
    real = Path(os.path.realpath(root / path))
    return real.is_file() and real.is_relative_to(root.resolve())


def _git(root: Path, *words: str) -> list[str]:
    """Names that `git ls-files` tells of `root`; none where there is no git, or no checkout."""
    command = ("git", "ls-files", "-z", *words)
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]
