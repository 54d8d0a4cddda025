"""The files of a model directory, checked before any library opens them: they may be anybody's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bimode.errors import BimodeError, ConfigError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npz")
INDEX = "model.safetensors.index.json"
TABLES = (  # small files that libraries read as tables
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "processor_config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    INDEX,
)
MAX_TABLE = 64 << 20  # bytes
MAX_HEADER = 100 << 20  # bytes of a safetensors header, as its library has it
# Counts of what libraries make one by one, before they look at a weight.
LAYERS, MAX_LAYERS = re.compile(r"(n|num)_(\w+_)?(layers?|blocks?)$|depth$"), 1000
ENTRIES, MAX_ENTRIES = re.compile(r"num_(\w+_)?(labels|experts)$"), 100_000


def check_model_files(path: Path) -> None:
    """Raise ConfigError of `model` for a link out of `path`, and for what no reader is given.

    That is: weights that are pickled, damaged or outside of `path`; a table that is none; numbers
    that nobody could build a model by; attention from another repository.
    """
    _check_links(path)
    tables = {name: _table(path / name) for name in TABLES if (path / name).is_file()}
    for key, value in _entries(tables.get("config.json", {})):
        _check_setting(path, key, value)
    _check_weights(path, tables.get(INDEX, {}))


def own_code(path: Path) -> str:
    """Returns a sentence for an error if a class of the model is code in its own directory."""
    there = [name for name in TABLES if (path / name).is_file()]
    names = [name for name in there if "auto_map" in _table(path / name)]
    return f"; its {names[0]} has an auto_map, code of its own, which is never run" if names else ""


@contextmanager
def foreign(path: Path, fix: str) -> Iterator[None]:
    """Turns whatever a library raises while it reads `path` into a ConfigError of `model`."""
    try:
        yield
    except (BimodeError, MemoryError, PermissionError):
        raise
    except Exception as error:  # libraries raise whatever a damaged file leads them to
        if "memory" in str(error):  # as torch says it; the machine's fault, not the model's
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        why = own_code(path) or f": {reason[:200]}"
        raise ConfigError("model", path, f"{fix}{why}") from None


def _check_links(path: Path) -> None:
    """A link would have files of this user read, copied and published with the model."""
    root = Path(os.path.realpath(path))
    homes = [root]
    for parent in root.parents:
        if parent.name == "snapshots":  # the cache of the Hub keeps a model's files beside it
            homes.append(parent.parent / "blobs")
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            target = Path(os.path.realpath(Path(folder, name)))
            if not any(target.is_relative_to(home) for home in homes):
                where = Path(folder, name).relative_to(path)
                raise ConfigError("model", path, f"{where} leads out of it; copy the file there")


def _table(file: Path) -> dict[str, Any]:
    problem = "is no JSON table"
    if file.stat().st_size > MAX_TABLE:
        problem = f"has more than {MAX_TABLE >> 20} MiB"
    else:
        try:
            if isinstance(found := json.loads(file.read_bytes()), dict):
                return found
        except (ValueError, RecursionError):
            pass
    raise ConfigError("model", file.parent, f"its {file.name} {problem}; copy the model again")


def _entries(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every key of `table` and of the tables in it, with its value."""
    for key, value in table.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)


def _check_setting(path: Path, key: str, value: Any) -> None:
    problem = ""
    for pattern, most in ((LAYERS, MAX_LAYERS), (ENTRIES, MAX_ENTRIES)):
        if pattern.search(key) and isinstance(value, int | float) and value > most:
            problem = f"{key} = {value:g}, more than {most:,}"
    if key == "text_config" and not isinstance(value, dict):
        problem = f"{key} that is no table"
    if key.endswith("attn_implementation") and "/" in str(value):
        problem = f"{key} = {value}, code from elsewhere, which is never run"
    if problem:
        raise ConfigError("model", path, f"its config.json has {problem}")


def _check_weights(path: Path, index: dict[str, Any]) -> None:
    weights = sorted(path.glob("*.safetensors"))
    pickled = [file.name for file in sorted(path.iterdir()) if file.suffix in PICKLED]
    if pickled and not weights:
        fix = f"its weights are pickled ({pickled[0]}), which may run code; save it as safetensors"
        raise ConfigError("model", path, fix)
    shards = index.get("weight_map", {})
    there = {file.name for file in weights}
    if not isinstance(shards, dict) or not all(str(name) in there for name in shards.values()):
        fix = f"its {INDEX} names files that are not there; copy the model again"
        raise ConfigError("model", path, fix)
    for file in weights:
        if not _is_whole(file):
            raise ConfigError("model", path, f"its {file.name} is damaged; copy the model again")


def _is_whole(file: Path) -> bool:
    """Whether the header of a safetensors file can be read and describes bytes that are there."""
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            return False
        try:
            header = json.loads(data.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            ends = [int(entry["data_offsets"][1]) for entry in tensors]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return False
    return max(ends, default=0) == size - 8 - length
