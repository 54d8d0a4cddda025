"""The record of a BPO run: metrics, completions, checkpoints, and the step to resume from."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.errors import LedgerError
from bimode.modes import Mode, decides_direct
from bimode.records import Completion, RolloutGroup
from bimode.rl.audit import check_checkpoint, missing_seal
from bimode.rl.ledger import Ledger, LedgerSnapshot, read
from bimode.rl.metrics import ALL_LEVELS, expected_auto, summarize
from bimode.rl.monitor import CollapseMonitor, view_of
from bimode.rl.scheduler import ScoredGroup
from bimode.storage.checkpoints import (
    LAST_SEAL,
    LastSeal,
    checkpoint_path,
    checkpoints,
    inventory,
    latest,
    read_last_seal,
    step_of,
    write_last_seal,
)
from bimode.storage.run_dir import own_file, to_disk, write_atomic
from pipelines.progress import log_line
from pipelines.report.numbers import LEVELS

if TYPE_CHECKING:
    from actors.rl_workers import RLWorkers


class RunLog:
    """Writes metrics, rollouts and checkpoints of a run, and finds the step to resume from.
    `margin` and `max_mismatch` configure the alarms (`CollapseMonitor`).
    """

    def __init__(
        self, path: Path, margin: Callable[[int], float], max_mismatch: float = math.inf
    ) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.started = time.monotonic()
        self.tokens = 0  # drawn so far, those before an interruption too
        self.done = self.sealed = 0  # steps, and those behind the last sealed checkpoint
        self.watch = CollapseMonitor(margin, max_mismatch)
        (path / "rollouts").mkdir(parents=True, exist_ok=True)

    def resume(self, workers: RLWorkers, ledger: Ledger) -> int:
        """Restore the last sealed checkpoint, remove what was logged after it, and return its step.

        A checkpoint whose seal was not written is taken back: the run was killed between the two.
        Raises LedgerError, also where a seal was written and is gone: nothing is taken back for
        that.
        """
        written, root = read(ledger.path), self.path / "checkpoints"
        if missing := missing_seal(written, read_last_seal(root)):
            fix = (
                "restore the ledger from a backup; or, to give up all work after its last seal,"
                f" delete checkpoints/{LAST_SEAL}: later checkpoints are removed then"
            )
            raise LedgerError(f"{missing}; {fix}")
        sealed = {seal["seal"] for seal in written.seals}
        for unsealed in [path for path in checkpoints(root) if step_of(path) not in sealed]:
            log_line(
                f"bpo: {unsealed.name} was not sealed by the ledger, so the run does not go on from"
                " there"
            )
            shutil.rmtree(unsealed)
        last = latest(root)
        step = step_of(last) if last else 0
        if last:
            check_checkpoint(written, last)
        write_last_seal(root, _seal_of(written, step))  # before the ledger is cut: it has this one
        if (cut := ledger.resume(step)) and step:
            log_line(
                f"bpo: going on from step {step}; {cut} bytes of the ledger after its seal were"
                " cut off"
            )
        lines = (
            self.metrics.read_text(errors="replace").splitlines() if self.metrics.is_file() else []
        )
        write_atomic(self.metrics, "".join(f"{line}\n" for line in lines[:step]))
        for line in lines[:step]:
            self.watch.see(view_of(json.loads(line)))  # what rang before is in the lines already
        for part in sorted((self.path / "rollouts").glob("step-*.parquet"))[step:]:
            part.unlink()
        self.tokens = self.counts()["tokens"] if step else 0
        self.done = self.sealed = step
        if last:
            workers.learner.restore(last)
        return step

    def checkpoint(self, workers: RLWorkers, ledger: Ledger) -> None:
        """Save weights, optimizer and random state, unless nothing happened since the last
        checkpoint. The folder appears in one piece, and counts once the ledger is sealed with it.
        """
        if self.sealed == self.done:
            return
        path = checkpoint_path(self.path / "checkpoints", self.done)
        rollouts = map(self._rollouts, range(self.sealed, self.done))
        to_disk(ledger.path, *rollouts, self.path / "rollouts", self.metrics, self.path)
        workers.learner.save(path)  # where this is on disk, so is all that led to it
        digest = ledger.seal(self.done, inventory(path))
        write_last_seal(path.parent, LastSeal(self.done, digest))
        self.sealed = self.done

    def step(self, step: int, scored: Sequence[ScoredGroup], learned: dict[str, Any]) -> str:
        """Log one step and its new alarms; return a note for the progress bar."""
        groups, probes = [d.group for d in scored], [c for d in scored for c in d.probes]
        decision = think_rates(groups, probes)
        line = {
            "step": step,
            "version": step,
            "reward": _mean([r for g in groups for r in g.rewards_G]),
            "decision": decision,
            "auto": asdict(expected_auto(groups, probes)),
            **learned,
            "seconds": round(time.monotonic() - self.started, 2),
            **summarize(groups).to_json(),
        }
        alarms = self.watch.see(view_of(line))
        line["alarms"] = [asdict(alarm) for alarm in alarms]
        for alarm in alarms:
            log_line(f"bpo: ALARM at step {alarm.step}, {alarm.mode.value} mode: {alarm.says}")
        with open(self.metrics, "a", opener=own_file) as file:
            file.write(json.dumps(line) + "\n")
        _write_rollouts(self._rollouts(step), scored)
        self.tokens += sum(c.num_tokens for g in groups for c in g.completions)
        self.done = step + 1
        rates = " ".join(f"{level} {rate:.2f}" for level, rate in decision.items())
        return f"reward {line['reward']:.2f}, think {rates}"

    def _rollouts(self, step: int) -> Path:
        return self.path / "rollouts" / f"step-{step:05d}.parquet"

    def counts(self) -> dict[str, Any]:
        """Return the counts for the manifest, read from the files, so that a resumed run counts all
        of its steps.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        tokens = pq.read_table(self.path / "rollouts", columns=["tokens"])["tokens"]
        return {"completions": len(tokens), "tokens": pc.sum(tokens).as_py()}


def _seal_of(ledger: LedgerSnapshot, step: int) -> LastSeal | None:
    seals = [LastSeal(step, seal["digest"]) for seal in ledger.seals if seal["seal"] == step]
    return seals[0] if seals else None


def think_rates(groups: Sequence[RolloutGroup], probes: Sequence[Completion]) -> dict[str, float]:
    """Return the share of thinking decisions by level, from the probes or, if the rollouts were
    drawn in auto mode, from the rollouts. Questions without a level count as level `all`, so that
    alarms see a collapse there too.
    """
    level = {g.prompt.id: g.prompt.level for g in groups}
    scored = probes or [c for g in groups for c in g.of(Mode.AUTO)]
    rates: dict[str, list[float]] = {}
    for c in scored:
        rates.setdefault(level[c.prompt_id], []).append(float(not decides_direct(c.text)))
    if scored and not rates.keys() & set(LEVELS):
        rates = {ALL_LEVELS: [rate for found in rates.values() for rate in found]}
    return {name: _mean(rates[name]) for name in (*LEVELS, ALL_LEVELS) if name in rates}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _write_rollouts(path: Path, scored: Sequence[ScoredGroup]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "group_id": d.group_id,
            "prompt_id": c.prompt_id,
            "level": g.prompt.level,
            "task": g.prompt.task,
            "mode": c.mode.value,
            "reward": r,
            "version": max(c.versions_T),
            "tokens": c.num_tokens,
            "finished": c.finished,
            "worker": c.worker,
            "text": c.text,
            "answer": g.prompt.answer,
        }
        for d in scored
        for g in [d.group]
        for c, r in zip(g.completions, g.rewards_G, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
