"""Named algorithms, a file each: what is drawn for a prompt, what each completion is credited with,
and vetted defaults.

Each file defines `ALGORITHM`. Listing the names imports none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bimode import plugins
from bimode.errors import ConfigError

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
    """Return the algorithm `name`: one of `NAMES`, or ``"module:attribute"`` of the user.

    Raises ConfigError.
    """
    if name in NAMES:
        built_in: Algorithm = import_module(f"{__name__}.{name}").ALGORITHM
        return built_in
    from bimode.algorithms.base import Algorithm

    algorithm = plugins.load("algorithm", name)
    if not isinstance(algorithm, Algorithm):
        kind = type(algorithm).__name__
        raise ConfigError("algorithm", name, f"is {kind}, not a bimode.algorithms.base.Algorithm")
    return algorithm
