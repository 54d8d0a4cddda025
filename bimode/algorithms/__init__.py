"""Named algorithms, a file each: what is drawn for a prompt, what each completion is credited with, and vetted defaults.

A name is valid if and only if this folder holds a file of that name, which defines `ALGORITHM`. To add one, add a file.
Listing the names imports none of them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bimode.credit.groups import Algorithm


def names() -> tuple[str, ...]:
    """Every algorithm that there is, in the order of the alphabet."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Algorithm:
    """The algorithm of `name`, which is one of `names()`."""
    algorithm: Algorithm = import_module(f"{__name__}.{name}").ALGORITHM
    return algorithm
