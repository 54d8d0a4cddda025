"""The verbs of `pipelines.bpo`: open the graph, collect a step's groups, update, and keep the run's records.

A step is written down in two places: `metrics.jsonl` (one line) and `rollouts/step-00001.parquet` (every completion with
its mode, reward, policy version, worker and prompt id).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.alarm import Watch, view_of
from bimode.checkpoints import checkpoint_path, latest, step_of
from bimode.config import BpoConfig, Recipe
from bimode.credit import modes_drawn
from bimode.credit.summary import summarize
from bimode.losses import LossFn
from bimode.modes import DECIDE_DIRECT, Mode
from bimode.records import Completion, GenerationRequest, Prompt, RolloutGroup, TrainingSample
from bimode.rundir import write_atomic
from bimode.token_metrics import means_by_mode, metric_means
from bimode.verify import is_correct
from pipelines.progress import say

if TYPE_CHECKING:
    from actors.graph import Graph


def open_graph(recipe: Recipe, model_dir: Path) -> Graph:
    """Starts the rollout workers and the learner group where the recipe's placement says."""
    from actors.graph import build_graph
    from cluster.placement import plan

    bpo = recipe.bpo
    rollout, learner = plan("bpo", recipe)
    return build_graph(
        model_dir,
        recipe.model,
        bpo.learner,
        bpo.optim,
        rollout_workers=bpo.rollout_workers,
        rollout_options=rollout.options(),
        learner_options=learner.options(),
        sync=bpo.sync,
        total_steps=bpo.steps,
        with_reference=bpo.kl > 0,
        seed=recipe.seed,
    )


def collect(graph: Graph, prompts: Sequence[Prompt], bpo: BpoConfig, seed: int) -> tuple[list[RolloutGroup], list[Completion]]:
    """Rewarded groups of `prompts`, in their order, and the probes: the bare decision in auto, `group_size` times each.

    The probes are one token long; they show the think rate (R-4B, Figure 8) and are not trained on.
    """
    draws = modes_drawn(bpo)
    wanted = [
        GenerationRequest(p, mode, n, bpo.temperature, bpo.max_tokens, seed=_seed(seed, i, mode))
        for i, p in enumerate(prompts)
        for mode, n in draws
    ]
    probing = [] if any(mode is Mode.AUTO for mode, _ in draws) else [
        GenerationRequest(p, Mode.AUTO, bpo.group_size, bpo.temperature, 1, seed=_seed(seed, i, Mode.AUTO))
        for i, p in enumerate(prompts)
    ]  # fmt: skip
    completions = graph.generate([*wanted, *probing])
    size = sum(n for _, n in draws)
    groups = [_group(p, completions[i * size : (i + 1) * size]) for i, p in enumerate(prompts)]
    return groups, completions[len(prompts) * size :]


def update(graph: Graph, samples: Sequence[TrainingSample], loss: LossFn) -> dict[str, Any]:
    """One optimizer step on `samples`; the denominator is the weight of the whole batch. Returns token means and step info."""
    num_tokens = sum(sum(s.loss_mask_T) for s in samples)
    sums = graph.learner.update(samples, loss, num_tokens=num_tokens)
    info = graph.learner.optim_step()
    step = {"loss": sums.get("loss", 0.0), "grad_norm": info.grad_norm, "lr": info.lr}
    return metric_means(sums) | step | {"learner": means_by_mode(sums)}


class RunLog:
    """What stays of a run: metrics, rollouts, checkpoints; finds the place to go on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.started = time.monotonic()
        self.watch = Watch()
        (path / "rollouts").mkdir(parents=True, exist_ok=True)

    def resume(self, graph: Graph) -> int:
        """Restores the last checkpoint, drops what was logged after it, publishes its weights; returns its step."""
        last = latest(self.path / "checkpoints")
        step = step_of(last) if last else 0
        lines = self.metrics.read_text().splitlines() if self.metrics.is_file() else []
        write_atomic(self.metrics, "".join(f"{line}\n" for line in lines[:step]))
        for line in lines[:step]:
            self.watch.see(view_of(json.loads(line)))  # what rang before is in the lines already
        for part in sorted((self.path / "rollouts").glob("step-*.parquet"))[step:]:
            part.unlink()
        if last:
            graph.learner.restore(last)
            graph.publish(step)
        return step

    def checkpoint(self, graph: Graph, step: int) -> None:
        """Saves weights, optimizer and RNG; the folder appears in one piece."""
        graph.learner.save(checkpoint_path(self.path / "checkpoints", step))

    def step(
        self, step: int, groups: Sequence[RolloutGroup], probes: Sequence[Completion], learnt: dict[str, Any]
    ) -> str:
        """Writes the step down and says which alarms it begins; returns a note for the progress bar."""
        decision = think_rates(groups, probes)
        line = {
            "step": step,
            "version": step,
            "reward": _mean([r for g in groups for r in g.rewards_G]),
            "decision": decision,
            **learnt,
            "seconds": round(time.monotonic() - self.started, 2),
            **summarize(groups).to_json(),
        }
        alarms = self.watch.see(view_of(line))
        line["alarms"] = [asdict(alarm) for alarm in alarms]
        for alarm in alarms:
            say(f"bpo: ALARM at step {alarm.step}, {alarm.mode.value} mode: {alarm.says}")
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        _write_rollouts(self.path / "rollouts" / f"step-{step:05d}.parquet", groups)
        rates = " ".join(f"{level} {rate:.2f}" for level, rate in decision.items())
        return f"reward {line['reward']:.2f}, think {rates}"

    def counts(self) -> dict[str, Any]:
        """For the manifest; read off what was written, so that an interrupted run counts all of its steps."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        tokens = pq.read_table(self.path / "rollouts", columns=["tokens"])["tokens"]
        return {"completions": len(tokens), "tokens": pc.sum(tokens).as_py()}


def think_rates(groups: Sequence[RolloutGroup], probes: Sequence[Completion]) -> dict[str, float]:
    """Share of thinking decisions by level, from the probes or, where the rollouts were auto, from those."""
    level = {g.prompt.id: g.prompt.level for g in groups}
    drawn = probes or [c for g in groups for c in g.of(Mode.AUTO)]
    rates: dict[str, list[float]] = {}
    for c in drawn:
        rates.setdefault(level[c.prompt_id], []).append(float(not c.text.startswith(DECIDE_DIRECT)))
    return {name: _mean(rates[name]) for name in ("easy", "mid", "hard") if name in rates}


def _group(prompt: Prompt, completions: Sequence[Completion]) -> RolloutGroup:
    rewards = tuple(
        float(c.finished and is_correct(c.text, prompt.answer, prompt.verifier, prompt.verifier_args)) for c in completions
    )
    return RolloutGroup(prompt, tuple(completions), rewards)


def _seed(seed: int, index: int, mode: Mode) -> int:
    return (seed * 1_000_003 + index * 31 + list(Mode).index(mode)) % (1 << 31)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _write_rollouts(path: Path, groups: Sequence[RolloutGroup]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "prompt_id": c.prompt_id, "level": g.prompt.level, "task": g.prompt.task, "mode": c.mode.value,
            "reward": r, "version": max(c.versions_T), "tokens": c.num_tokens, "finished": c.finished,
            "worker": c.worker, "text": c.text, "answer": g.prompt.answer,
        }
        for g in groups
        for c, r in zip(g.completions, g.rewards_G, strict=True)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
