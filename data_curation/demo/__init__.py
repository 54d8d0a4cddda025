"""Task families on real sources that ship inside wheels: nothing is downloaded.

A family is a function ``(index, split, seed, weights) -> Sample``; equal arguments give equal
bytes. A new one is a file here, a line in `FAMILIES` and a name in `bimode.config.curate.Family`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bimode import plugins
from bimode.config.curate import SourceConfig
from bimode.records import Sample
from data_curation.demo.arithmetic import expression
from data_curation.demo.charts import bar_chart
from data_curation.demo.digits import digit_strip
from data_curation.demo.sums import written_sum
from data_curation.demo.tables import worked_sum
from data_curation.demo.text import check_tasks, puzzle

Weights = tuple[float, float, float]  # easy, mid, hard
Family = Callable[[int, str, int, Weights], Sample]

FAMILIES: dict[str, Family] = {
    "digits": digit_strip,
    "charts": bar_chart,
    "arithmetic": expression,
    "sums": written_sum,
    "tables": worked_sum,
}
TEXT_ONLY = ("sums", "tables", "reasoning_gym")


def family_of(source: SourceConfig) -> Family:
    """The generator that `source` names. Raises ConfigError for a task without an honest trace."""
    if source.generator:
        return partial(_own_sample, source.generator)
    if source.family == "reasoning_gym":
        return partial(puzzle, check_tasks(source.tasks))
    assert source.family
    return FAMILIES[source.family]


def _own_sample(name: str, index: int, split: str, seed: int, weights: Weights) -> Sample:
    sample = plugins.call("generator", name, index, split, seed, weights)
    if not isinstance(sample, Sample):
        kind = type(sample).__name__
        raise plugins.PluginError("generator", name, f"returned {kind}, not a bimode.Sample")
    return sample
