"""Every compiled pattern of the packages, how it is used, and texts that are made to slow it
down.
"""

from __future__ import annotations

import ast
import importlib
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parent.parent
PACKAGES = ("bimode", "actors", "cluster", "data_curation", "pipelines")
METHODS = ("search", "match", "fullmatch", "findall", "finditer", "split", "sub")
UNNAMED = ("search", "sub")  # how a pattern is tried of which no use by its own name is found
FILLERS = ("a", "7", " ", ".", "-", "\n", "(", "A", '"', "\\", '\\"')
MOST_PAIRED = 6


@dataclass(frozen=True, slots=True)
class Used:
    """A pattern under one of its names, and the methods that are called on it."""

    name: str  # e.g. bimode.grading.verify.YEAR
    pattern: re.Pattern[str]
    methods: tuple[str, ...]


@cache
def sources() -> dict[str, ast.Module]:
    """All modules of the packages by name, as syntax trees."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(file.read_text())
    return found


@cache
def used_patterns() -> tuple[Used, ...]:
    """The patterns that stand in modules, also in their tuples and dicts; each once."""
    names: dict[re.Pattern[str], str] = {}
    for module, tree in sources().items():
        if not any(_is_re_call(node) for node in ast.walk(tree)):
            continue
        for name, value in vars(importlib.import_module(module)).items():
            for pattern in _patterns_in(value):
                names.setdefault(pattern, f"{module}.{name}")
    called = _called_methods()
    return tuple(
        Used(name, pattern, tuple(sorted(called[pattern])) or UNNAMED)
        for pattern, name in names.items()
    )


def _patterns_in(value: object, depth: int = 0) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        is_text = isinstance(value.pattern, str)
        text = value.pattern if is_text else value.pattern.decode("latin-1")
        yield value if is_text else re.compile(text, value.flags | re.ASCII)
    elif isinstance(value, tuple | list | set | frozenset | dict) and depth < 3:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        for each in inner:
            yield from _patterns_in(each, depth + 1)


def _called_methods() -> dict[re.Pattern[str], set[str]]:
    """The methods that any module calls on a pattern by its name, or hands on, as ``NAME.sub``."""
    found: dict[re.Pattern[str], set[str]] = defaultdict(set)
    for module, tree in sources().items():
        origin = {
            alias.asname or alias.name: (str(node.module), alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                owner = getattr(node.value, "id", "")
                home, name = origin.get(owner, (module, owner))
                for pattern in _patterns_in(getattr(sys.modules.get(home), name, None)):
                    found[pattern].add(node.attr)
    return found


def inline_patterns() -> Iterator[Used]:
    """Patterns that a function uses by their text."""
    for name, call in _calls_in_functions():
        text = call.args[0]
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield Used(f"{name}: {text.value}", re.compile(text.value), (method,))


def made_patterns() -> set[str]:
    """Functions that compile a pattern which is not written down there, as ``module.function``."""
    return {
        name for name, call in _calls_in_functions() if not isinstance(call.args[0], ast.Constant)
    }


def _calls_in_functions() -> Iterator[tuple[str, ast.Call]]:
    for module, tree in sources().items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and _is_re_call(node):
                        yield f"{module}.{function.name}", node


def _is_re_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return getattr(node.func.value, "id", "") == "re" and node.func.attr != "escape"


def hostile_texts(pattern: re.Pattern[str], length: int) -> Iterator[str]:
    """Repetitions of what the pattern looks for, alone and in pairs, with an end that may fail
    it.
    """
    plain = re.sub(r"\\[a-zA-Z0-9]|\\", " ", pattern.pattern)
    words = sorted(set(re.findall(r"[A-Za-z]{2,}", plain)), key=len)
    signs = sorted(set(plain) - set("abcdefghijklmnopqrstuvwxyz0123456789?*+|^$ "))
    units = list(dict.fromkeys([*FILLERS, *signs, *words, "<", ">", "*", "+", "$"]))
    pairs = ["".join(pair) for pair in permutations(units[:MOST_PAIRED], 2)]
    pairs += [f"{unit}{filler}" for unit in units[MOST_PAIRED:] for filler in ("a", " ")]
    for unit in units + pairs:
        text = (unit * (length // len(unit) + 1))[:length]
        yield text + "\0"
        yield words[0] + text + "!" if words else "x" + text + "!"


def seconds_of(used: Used, text: str, most: float) -> float:
    """The longest, of a core, that one use of the pattern on `text` takes; cut off after `most`."""
    longest = 0.0
    for method in used.methods:
        begun = time.thread_time()
        with _cut_off_after(most):
            _use(used.pattern, method, text)
        longest = max(longest, time.thread_time() - begun)
    return longest


def _use(pattern: re.Pattern[str], method: str, text: str) -> None:
    if method == "sub":
        pattern.sub("", text)
    elif method == "finditer":
        list(pattern.finditer(text))
    else:
        getattr(pattern, method)(text)


class _cut_off_after:
    """Ends the block after so many seconds, without an error; patterns look for signals as they
    go.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGPROF, _raise)
        signal.setitimer(signal.ITIMER_PROF, self.seconds)

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self.before)
        return isinstance(error, TimeoutError)


def _raise(number: int, frame: FrameType | None) -> None:
    raise TimeoutError
