"""The check of `bimode.packing_check` where the learner will run: on its node, on its device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from bimode.packing_check import PackingCheck, check_packing


def check_on_learner_node(
    path: Path, dtype: str, max_model_len: int, options: Mapping[str, Any]
) -> PackingCheck:
    """`check_packing` in a Ray task with `options` (ray.remote options of a learner rank). Raises ConfigError."""
    remote = ray.remote(**options)(check_packing)
    try:
        return ray.get(remote.remote(path, dtype, max_model_len))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
