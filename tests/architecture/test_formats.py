"""docs/formats.md names what the code writes: a column or a field that nobody explains is missed
here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bimode.rl.metrics import DENOMINATORS, ModeMeans
from bimode.rl.monitor import Alarm
from bimode.storage.dataset import SCHEMA
from data_curation.checks.validate import REASONS
from data_curation.sampling.cache import REPLY_SCHEMA
from data_curation.tagging.tagging import TAG_COLUMNS

REPO = Path(__file__).resolve().parents[2]
ROUTING = (
    "gap_recovery",
    "gap_recovery_ci95",
    "saving_recovery",
    "saving_recovery_ci95",
    "h_acc",
    "h_acc_n",
    "tokens_vs_thinking",
    "nauc",
    "qnc",
    "cost_range",
    "baselines",
    "baselines_detail",
)


@pytest.mark.parametrize(
    "names",
    [
        SCHEMA.names,
        TAG_COLUMNS,
        REASONS,
        REPLY_SCHEMA.names,
        ROUTING,
        ModeMeans.__dataclass_fields__,
        Alarm.__dataclass_fields__,
        sorted({*DENOMINATORS} - {"nll"}),
    ],
    ids=["columns", "tags", "rejects", "rollouts", "routing", "modes", "alarms", "learner"],
)
def test_every_name_is_told(names: list[str]) -> None:
    told = set(re.findall(r"`(\w+)`", (REPO / "docs" / "formats.md").read_text()))
    assert [name for name in names if name not in told] == []


def test_routing_has_the_fields_that_are_told() -> None:
    """The list above is the one in the code."""
    source = (REPO / "pipelines" / "report" / "numbers.py").read_text()
    body = source.split("def routing_numbers", 1)[1].split("\ndef ", 1)[0]
    assert set(
        re.findall(r'^        "(\w+)":', body.split("    return {", 1)[1], re.MULTILINE)
    ) == set(ROUTING)
