"""`bimode scale DIR --rollouts N`: more or fewer rollout workers for a live run; or as many as its
waits call for.

The wish is a file in the run's folder, which every node sees; the run looks at it every second.
Only a live run is asked. The wish outlives its process, since whoever starts a killed
run again, a person or a scheduler, should not find it smaller than it was; the run says so. It ends
with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from bimode.config.rl import BpoConfig
from bimode.errors import ConfigError
from bimode.rl.transports import can_join
from bimode.rl.waits import Waits
from bimode.storage.run_dir import read_json, write_atomic
from bimode.storage.versions import is_at_work
from pipelines.progress import log_line
from pipelines.saved_recipe import saved_recipe

if TYPE_CHECKING:
    from actors.rollout.loop import Rollouts

POLL_S = 1.0
FILE = "rollout_workers.json"
STEPS = 4  # whose waits are looked at before the number changes


class WorkerTarget:
    """How many rollout workers a run should have: as last asked for; with `bpo.rollout_workers_max`
    the run asks by itself.
    """

    def __init__(self, stage: Path, bpo: BpoConfig, room: Callable[[], int]) -> None:
        """`room` says how many the nodes can hold now; it is asked when the wish is new, and before
        a run grows.
        """
        self.file, self.default, self.most, self._room = (
            stage / FILE,
            bpo.rollout_workers,
            bpo.rollout_workers_max,
            room,
        )
        self._max_staleness = bpo.max_staleness
        self._waits: list[Waits] = []
        self._heard, self._held = 0, self.default
        if (now := self.wanted()) != self.default:
            log_line(
                f"bpo: rollout workers: {now}, as last asked for, instead of bpo.rollout_workers ="
                f" {self.default}"
            )

    def wanted(self) -> int:
        """What was last asked for, as far as there is room, else `bpo.rollout_workers`."""
        written = self.file.stat().st_mtime_ns if self.file.exists() else 0
        if written != self._heard:
            asked = int((read_json(self.file) or {}).get("rollouts", self.default))
            self._heard, self._held = (
                written,
                asked if asked <= self.default else min(asked, self._room()),
            )
            if self._held < asked:
                log_line(
                    f"bpo: {asked} rollout workers were asked for, the nodes have room for"
                    f" {self._held} now"
                )
        return self._held

    @contextmanager
    def follow(self, rollouts: Rollouts) -> Iterator[None]:
        """Keeps the workers of `rollouts` at the target while the block runs."""
        over = Event()

        def watch() -> None:
            while not over.wait(POLL_S):
                rollouts.resize(self.wanted())

        rollouts.resize(self.wanted())
        thread = Thread(target=watch, name="scale", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def record_step(self, waits: Waits) -> None:
        """Takes the waits of a step into account."""
        if not self.most:
            return
        self._waits.append(waits)
        if len(self._waits) < STEPS:
            return
        change = sum(self._waits, Waits()).change(self._max_staleness)
        self._waits.clear()
        now = self.wanted()
        if (then := min(max(now + change, 1), self.most, max(self._room(), now))) != now:
            log_line(
                f"bpo: rollout workers: {then} instead of {now}, since"
                f" {'the learner waits' if change > 0 else 'they wait'}"
            )
            ask(self.file, then)


def ask(file: Path, rollouts: int) -> None:
    """Leaves the wish where the run will find it."""
    write_atomic(file, f'{{"rollouts": {rollouts}}}\n')


def forget(stage: Path) -> None:
    """The run has ended, and with it what was asked of it."""
    (stage / FILE).unlink(missing_ok=True)


def scale_run(run: Path, rollouts: int) -> None:
    """Asks for `rollouts` workers. Raises ConfigError where no run of BPO is under way."""
    stage = run / "bpo"
    if not (stage / "ledger").is_dir():
        raise ConfigError(
            "DIR", run, "has no bpo/ledger: its BPO has not begun, or this is not what --out named"
        )
    if (stage / "manifest.json").is_file():
        raise ConfigError("DIR", run, "its BPO has ended; scale a run while it lives")
    if not is_at_work(run):
        raise ConfigError(
            "DIR",
            run,
            "no run is at work there; start it again with its own command, then scale it",
        )
    bpo = (saved_recipe(run) or {}).get("bpo", {})
    if not can_join(sync := bpo.get("sync", "auto")):
        raise ConfigError(
            "bpo.sync",
            sync,
            "fixes who is there when the run starts; only object_store lets workers come and go",
        )
    if (most := bpo.get("rollout_workers_max")) and rollouts > most:
        raise ConfigError(
            "--rollouts", rollouts, f"is more than the run's bpo.rollout_workers_max = {most}"
        )
    before = (read_json(stage / FILE) or {}).get("rollouts", bpo.get("rollout_workers"))
    ask(stage / FILE, rollouts)
    log_line(
        f"scale: rollout workers: {rollouts} asked for, {before} before; the run says when they"
        " join or leave, or lack room"
    )


if __name__ == "__main__":
    from pipelines import main

    main("scale")
