"""Own code in a run: objects that a recipe names as ``"module:attribute"``.

    [bpo]               algorithm = "my_project.algo:ALGORITHM"   an `Algorithm`
    [bpo]               reward    = "my_project.rewards:shape"    `Reward`
    [[curate.sources]]  verifier  = "my_project.grading:grade"    `Verifier`
    [[curate.sources]]  generator = "my_project.data:draw"        `Generator`
    [[curate.sources]]  layout    = "my_project.data:read"        `Layout`
    [track]             to        = ["my_project.log:Sink"]       `MetricsSink`

The command and its workers import the module, so it lies in the working directory, in the folder of
bimode's own code, or among the installed packages; another place is refused. An object is checked
when the recipe is read. Only a recipe chooses code: a row of a data folder that names a verifier
which the recipe does not name is refused (`bimode.inputs.row_check`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from bimode.errors import BimodeError, ConfigError
from bimode.records import ParsedRecord, RolloutGroup, Sample
from bimode.storage.run_dir import digest_json, digest_path

CODE = Path(__file__).resolve().parents[1]  # of bimode, and of the examples


class Verifier(Protocol):
    """Scores an answer: 1 is right, 0 is wrong, and partial credit lies between.

    `response` is what follows the think block; `answer` is the reference answer of the row; `args`
    are `verifier_args` of the source.
    """

    def __call__(self, response: str, answer: str, **args: Any) -> float: ...


class Reward(Protocol):
    """Returns one finite reward for each completion of `group`, in order, from which credit is
    computed. `group.rewards_G` holds the verifier's scores. Called more than once for a group, so
    equal groups must get equal rewards.
    """

    def __call__(self, group: RolloutGroup) -> Sequence[float]: ...


class Generator(Protocol):
    """Draws question `index` of `split`; equal arguments must give equal samples, and the splits
    must not share raw material. `weights` are those of the levels easy, mid and hard.
    """

    def __call__(
        self, index: int, split: str, seed: int, weights: tuple[float, float, float]
    ) -> Sample: ...


class Layout(Protocol):
    """Reads one record of a source's files; `read_image` returns the bytes of an image that the
    record names by a path.
    """

    def __call__(
        self, record: Mapping[str, Any], read_image: Callable[[str], bytes]
    ) -> ParsedRecord: ...


class MetricsSink(Protocol):
    """Follows the metrics of a stage. Made as ``Sink(folder)``, with a folder of its own."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


SIGNATURES: dict[str, tuple[str, ...]] = {
    "verifier": ("response", "answer"),
    "reward": ("group",),
    "generator": ("index", "split", "seed", "weights"),
    "layout": ("record", "read_image"),
    "sink": ("folder",),
}


class PluginError(BimodeError):
    """Own code of the user failed: what it is, its name, and what went wrong at which line."""

    def __init__(self, kind: str, name: str, problem: str) -> None:
        super().__init__(kind, name, problem)
        self.kind, self.name, self.problem = kind, name, problem

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.problem}"


def is_plugin(name: str | None) -> bool:
    """Whether `name` has the form ``module:attribute``."""
    return ":" in (name or "")


@cache
def load(kind: str, name: str) -> Any:
    """Import the object `name`, and check that it can be called as a `kind` is.

    Raises ConfigError with the key `kind`.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(kind, name, 'write it as "module:attribute"')
    module = _import(kind, name, module_name)
    if not hasattr(module, attribute):
        raise ConfigError(kind, name, f"{module_name} has no {attribute}")
    _check_place(kind, name, module)
    value = getattr(module, attribute)
    if wanted := SIGNATURES.get(kind):
        _check_signature(kind, name, value, wanted)
    return value


def call(kind: str, name: str, *values: Any, **named: Any) -> Any:
    """Call the plug-in. Raises PluginError, with the line, for whatever it raises."""
    function = load(kind, name)
    try:
        return function(*values, **named)
    except BimodeError:
        raise
    except Exception as error:  # own code of the user may raise anything
        raise PluginError(kind, name, described(error, function)) from error


def described(error: BaseException, function: Any) -> str:
    """What `error` says, and the last line of the plug-in's file that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    own = [frame for frame in frames if frame.filename == file]
    where = (own or frames)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in where)
    return f"{type(error).__name__}: {error}{place}"


def digests(names: Iterable[str]) -> dict[str, str]:
    """Digest of the source of each plug-in among `names`, for the key of a stage or a cache."""
    return {name: _digest(name) for name in sorted(set(names)) if is_plugin(name)}


@cache
def _digest(name: str) -> str:
    """Of its module's file and, in a package, of the Python files beside it."""
    module = importlib.import_module(name.partition(":")[0])
    file = Path(str(module.__file__))
    beside = sorted(file.parent.glob("*.py")) if "." in module.__name__ else [file]
    return digest_json([[path.name, digest_path(path)] for path in beside])


def _import(kind: str, name: str, module_name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            fix = f"no module {error.name} in {Path.cwd()}, {CODE} or the installed packages"
            raise ConfigError(kind, name, fix) from None
        raise ConfigError(kind, name, f"its import fails: {error}") from None
    except Exception as error:  # own code of the user may raise anything
        problem = described(error, None)
        raise ConfigError(kind, name, f"its import fails: {problem}") from None


def _check_place(kind: str, name: str, module: ModuleType) -> None:
    file = Path(getattr(module, "__file__", None) or "/").resolve()
    installed = [Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib")]
    places = (Path.cwd().resolve(), CODE, *installed)
    if not any(file.is_relative_to(place) for place in places):
        fix = (
            f"{file} is not on every node; move it below the working directory, or install its"
            " package"
        )
        raise ConfigError(kind, name, fix)


def _check_signature(kind: str, name: str, value: Any, wanted: Sequence[str]) -> None:
    shown = f"({', '.join(wanted)})"
    if not callable(value):
        raise ConfigError(kind, name, f"is {type(value).__name__}, not a function of {shown}")
    try:
        inspect.signature(value).bind(*wanted)
    except TypeError:
        found = inspect.signature(value)
        raise ConfigError(kind, name, f"takes {found}, and is called with {shown}") from None
    except ValueError:  # a function in C without a signature
        return
