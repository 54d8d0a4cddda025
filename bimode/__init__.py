"""Train models that decide when to think: curation, annealing, bi-mode policy optimization.

The public names, imported when they are used:

    from bimode import Recipe, run
    run(Recipe.load(Path("pipelines/recipes/tiny.toml")), out="runs/demo")

`Algorithm`, `Sample`, `ParsedRecord`, `RolloutGroup` and the protocols of `bimode.plugins` are for
own code that a recipe names (docs/extending.md). The package itself is the pure part: records,
config, losses, credit, metrics; it imports no Ray, vLLM or DeepSpeed.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "Recipe": "bimode.config.recipe",
    "run": "pipelines.run",
    "Algorithm": "bimode.algorithms.base",
    "Sample": "bimode.records",
    "ParsedRecord": "bimode.records",
    "RolloutGroup": "bimode.records",
    "Completion": "bimode.records",
    "Mode": "bimode.modes",
    "Verifier": "bimode.plugins",
    "Reward": "bimode.plugins",
    "Generator": "bimode.plugins",
    "Layout": "bimode.plugins",
    "MetricsSink": "bimode.plugins",
    "BimodeError": "bimode.errors",
    "ConfigError": "bimode.errors",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(PUBLIC[name]), name)
