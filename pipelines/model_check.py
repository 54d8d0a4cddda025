"""Whether a model is computed rightly when it is trained here, asked once a run, before an engine
starts.

The answer depends on the model's architecture and on our code, not on the values of its weights
(ours): it is kept in the run's manifest under the digest of the model's files but its weights, the
code and the packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.config.recipe import Recipe
from bimode.storage.run_dir import (
    digest_json,
    digest_without_weights,
    read_json,
    update_run_manifest,
)
from cluster.environment import code_version
from cluster.placement import check, node_resources, plan
from pipelines.progress import if_slow, log_line

if TYPE_CHECKING:
    from bimode.learner.packing_check import PackingCheck

TRAINING = ("anneal", "bpo")


def ensure_model_is_trainable(
    stage: str, recipe: Recipe, path: Path, run: Path, versions: dict[str, str]
) -> None:
    """Compare packed with single sequences for the model in `path`, unless this run has. Raises
    ConfigError.
    """
    model = recipe.model
    key = digest_json(
        [digest_without_weights(path), model.dtype, model.max_model_len, code_version(), versions]
    )
    known = (read_json(run / "manifest.json") or {}).get("packing_check", {})
    if known.get("key") == key:
        return
    trained_by = [name for name in (stage, *recipe.stages) if name in TRAINING]
    roles = plan(trained_by[0], recipe)
    check(trained_by[0], roles, node_resources())  # or the check would wait for what no node has
    with if_slow(f"{stage}: comparing packed sequences of the model with single ones"):
        found = check_on_learner_node(path, model.dtype, model.max_model_len, roles[-1].options())
    in_bfloat16 = (
        f", {found.bfloat16:.1g} on average in bfloat16" if model.dtype == "bfloat16" else ""
    )
    log_line(
        f"{stage}: packed sequences equal single ones: {found.float32:.1g} nats at"
        f" most{in_bfloat16}"
    )
    entry = {"key": key, **asdict(found)}
    update_run_manifest(run, lambda manifest: manifest.update(packing_check=entry))


def check_on_learner_node(
    path: Path, dtype: str, max_model_len: int, options: Mapping[str, Any]
) -> PackingCheck:
    """Run `check_packing` in a Ray task with `options` (ray.remote options of a learner rank).
    Raises ConfigError.
    """
    import ray

    from bimode.learner.packing_check import check_packing

    found: PackingCheck
    try:
        found = ray.get(ray.remote(**options)(check_packing).remote(path, dtype, max_model_len))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return found
