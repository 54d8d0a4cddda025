"""`bimode scale DIR --rollouts N`: more or fewer rollout workers for a live run.

The wish is a file in the run's folder, which every node sees; the rollout loop looks at it between two slices. It outlives the
process: a run that goes on has as many workers as were last asked for.
"""

from __future__ import annotations

from pathlib import Path

from bimode.errors import ConfigError
from bimode.rundir import read_json, write_atomic
from pipelines.progress import say

FILE = "rollout_workers.json"


def wanted_workers(stage: Path, default: int) -> int:
    """What was last asked for, else `default`."""
    return int((read_json(stage / FILE) or {}).get("rollouts", default))


def scale_run(run: Path, rollouts: int) -> None:
    """Asks for `rollouts` workers. Raises ConfigError where no run of BPO is under way."""
    stage = run / "bpo"
    if not (stage / "ledger").is_dir():
        raise ConfigError("DIR", run, "has no bpo/ledger; name the run directory of a BPO run")
    if (stage / "manifest.json").is_file():
        raise ConfigError("DIR", run, "its BPO has ended; scale a run while it lives")
    write_atomic(stage / FILE, f'{{"rollouts": {rollouts}}}\n')
    say(f"scale: {rollouts} rollout workers asked for; the run says when they join or leave")
