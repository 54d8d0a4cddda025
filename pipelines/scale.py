"""`bimode scale DIR --rollouts N`: add or remove rollout workers of a live run.

With `bpo.rollout_workers_max` a run also sets the number itself, from the waits of its steps. The
number is a file in the run's folder, which every node sees; the run reads it every second. A run
that is killed and started again keeps it; it is deleted when the run ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from bimode.config.rl import BpoConfig
from bimode.errors import BimodeError, ConfigError
from bimode.rl.timeline import Waits
from bimode.rl.transports import can_join
from bimode.storage.run_dir import read_json, write_atomic
from bimode.storage.versions import is_at_work
from pipelines.progress import log_line
from pipelines.saved_recipe import saved_recipe

if TYPE_CHECKING:
    from actors.rollout.loop import Rollouts

POLL_S = 1.0
FILE = "rollout_workers.json"
STEPS = 4  # steps whose waits are added up before the number changes


class WorkerTarget:
    """The number of rollout workers that a run should have now."""

    def __init__(self, stage: Path, bpo: BpoConfig, room: Callable[[], int]) -> None:
        """`room` returns how many workers the nodes can hold now."""
        self.file, self.default, self.most = (
            stage / FILE,
            bpo.rollout_workers,
            bpo.rollout_workers_max,
        )
        self._room = room
        self._max_staleness = bpo.max_staleness
        self._waits: list[Waits] = []
        self._read_at, self._target = 0, self.default
        now = self.wanted()
        if now != self.default:
            instead = f"instead of bpo.rollout_workers = {self.default}"
            log_line(f"bpo: rollout workers: {now}, as last asked for, {instead}")

    def wanted(self) -> int:
        """Return the last number that was asked for, bounded by the room on the nodes; else
        `bpo.rollout_workers`.
        """
        written = self.file.stat().st_mtime_ns if self.file.exists() else 0
        if written == self._read_at:
            return self._target
        asked = int((read_json(self.file) or {}).get("rollouts", self.default))
        target = min(asked, self._room()) if asked > self.default else asked
        self._read_at, self._target = written, target
        if target < asked:
            room = f"the nodes have room for {target} now"
            log_line(f"bpo: {asked} rollout workers were asked for, {room}")
        return target

    @contextmanager
    def follow(self, rollouts: Rollouts) -> Iterator[None]:
        """Keep the workers of `rollouts` at the target while the block runs. A problem is logged
        once, and tried again at the next poll.
        """
        from ray.exceptions import RayError

        over = Event()

        def watch() -> None:
            logged = ""
            while not over.wait(POLL_S):
                try:
                    rollouts.resize(self.wanted())
                except (BimodeError, RayError, OSError, ValueError, RuntimeError) as error:
                    if str(error) != logged:
                        log_line(f"bpo: the number of rollout workers stays: {error}")
                    logged = str(error)

        rollouts.resize(self.wanted())
        thread = Thread(target=watch, name="scale", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def record_step(self, waits: Waits) -> None:
        """Add the waits of a step; change the number if those of `STEPS` steps call for it."""
        if not self.most:
            return
        self._waits.append(waits)
        if len(self._waits) < STEPS:
            return
        change = sum(self._waits, Waits()).change(self._max_staleness)
        self._waits.clear()
        now = self.wanted()
        new = min(max(now + change, 1), self.most, max(self._room(), now))
        if new != now:
            why = "the learner waits" if change > 0 else "they wait"
            log_line(f"bpo: rollout workers: {new} instead of {now}, since {why}")
            ask(self.file, new)


def ask(file: Path, rollouts: int) -> None:
    """Write the number where the run reads it."""
    write_atomic(file, f'{{"rollouts": {rollouts}}}\n')


def forget(stage: Path) -> None:
    """Delete the number: the run has ended."""
    (stage / FILE).unlink(missing_ok=True)


def scale_run(run: Path, rollouts: int) -> None:
    """Ask a live run for `rollouts` workers. Raises ConfigError where no BPO is running."""
    stage = run / "bpo"
    fix = ""
    if not (stage / "ledger").is_dir():
        fix = "has no bpo/ledger: its BPO has not begun, or this is not what --out named"
    elif (stage / "manifest.json").is_file():
        fix = "its BPO has ended; scale a run while it lives"
    elif not is_at_work(run):
        fix = "no run is at work there; start it again with its own command, then scale it"
    if fix:
        raise ConfigError("DIR", run, fix)
    bpo = (saved_recipe(run) or {}).get("bpo", {})
    sync = bpo.get("sync", "auto")
    if not can_join(sync):
        fix = "fixes the workers when the run starts; only object_store lets them join and leave"
        raise ConfigError("bpo.sync", sync, fix)
    most = bpo.get("rollout_workers_max")
    if most and rollouts > most:
        fix = f"is more than the run's bpo.rollout_workers_max = {most}"
        raise ConfigError("--rollouts", rollouts, fix)
    before = (read_json(stage / FILE) or {}).get("rollouts", bpo.get("rollout_workers"))
    ask(stage / FILE, rollouts)
    asked = f"scale: rollout workers: {rollouts} asked for, {before} before"
    log_line(f"{asked}; the run says when they join or leave, or lack room")


if __name__ == "__main__":
    from pipelines import main

    main("scale")
