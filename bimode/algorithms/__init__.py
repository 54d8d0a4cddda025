"""Named algorithms, a file each: what is drawn for a prompt, what each completion is credited with,
and vetted defaults.

Each file defines `ALGORITHM`. Listing the names imports none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bimode.algorithms.base import Algorithm

NAMES = (
    "adaptthink",
    "bpo",
    "counterroute",
    "dapo",
    "degrpo",
    "dr_grpo",
    "grpo",
    "hgpo",
    "per_mode",
)


def load(name: str) -> Algorithm:
    """The algorithm of `name`, which is one of `NAMES`."""
    algorithm: Algorithm = import_module(f"{__name__}.{name}").ALGORITHM
    return algorithm
