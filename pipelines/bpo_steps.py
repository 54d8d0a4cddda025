"""The verbs of `pipelines.bpo`: open the graph, collect a step's groups, update, and keep the run's records.

A step is written down in two places: `metrics.jsonl` (one line) and `rollouts/step-00001.parquet` (every completion with
its mode, reward, policy version, worker and prompt id).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimode.bpo_config import BpoConfig
from bimode.checkpoints import checkpoint_path, latest, step_of
from bimode.config import Recipe
from bimode.credit import CreditedBatch, assign, informative, modes_drawn, shuffle_rewards
from bimode.credit.duplicates import merge_duplicates
from bimode.credit.expected import expected_auto
from bimode.credit.summary import summarize
from bimode.losses import LossFn
from bimode.modes import Mode, decides_direct
from bimode.records import Completion, GenerationRequest, Prompt, RolloutGroup
from bimode.rewards import correctness, shaped
from bimode.rundir import write_atomic
from bimode.token_metrics import means_by_mode, metric_means

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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Groups of a step with correctness as their reward, probes of the same prompts, and how many groups were dropped."""

    groups: list[RolloutGroup]
    probes: list[Completion]
    dropped: int


def collect(graph: Graph, prompts: Iterator[Prompt], bpo: BpoConfig, references: Mapping[str, float], seed: int) -> Drawn:
    """`bpo.prompts_per_step` groups of `prompts`, in their order.

    Where `bpo.resample` allows further rounds, groups that carry no credit give way to groups of the next prompts; those of
    the last round stay. `references` holds the starting policy's mean reward by prompt id, where the algorithm wants it.
    """
    groups: list[RolloutGroup] = []
    probes: list[Completion] = []
    asked = 0
    for rounds_left in reversed(range(bpo.resample + 1)):
        wanted = list(islice(prompts, bpo.prompts_per_step - len(groups)))
        for group, probe in _draw(graph, wanted, bpo, references, seed, asked):
            if not rounds_left or informative(shaped(group, bpo), bpo):
                groups.append(group)
                probes += probe
        asked += len(wanted)
        if len(groups) == bpo.prompts_per_step:
            break
    return Drawn(groups, probes, dropped=asked - len(groups))


def _draw(
    graph: Graph, prompts: Sequence[Prompt], bpo: BpoConfig, references: Mapping[str, float], seed: int, first: int
) -> list[tuple[RolloutGroup, list[Completion]]]:
    """The group of each prompt and its probes: the bare decision in auto, `group_size` times; seeds count from `first`.

    The probes are one token long; they show the think rate (R-4B, Figure 8) and are not trained on.
    """
    draws = modes_drawn(bpo)
    num_probes = 0 if any(mode is Mode.AUTO for mode, _ in draws) else bpo.group_size
    wanted = [
        GenerationRequest(p, mode, n, bpo.temperature, bpo.max_tokens, seed=_seed(seed, i, mode))
        for i, p in enumerate(prompts, first)
        for mode, n in draws
    ]
    probing = [
        GenerationRequest(p, Mode.AUTO, num_probes, bpo.temperature, 1, seed=_seed(seed, i, Mode.AUTO))
        for i, p in enumerate(prompts, first)
        if num_probes
    ]
    completions = iter(graph.generate([*wanted, *probing]))
    size = sum(n for _, n in draws)
    groups = [_group(p, tuple(islice(completions, size)), references) for p in prompts]
    return [(group, list(islice(completions, num_probes))) for group in groups]


def credit(groups: Sequence[RolloutGroup], bpo: BpoConfig, seed: int) -> CreditedBatch:
    """The samples of one update, equal ones merged: rewards as the recipe shapes them and, in the control, dealt anew."""
    rewarded = [shaped(group, bpo) for group in groups]
    batch = assign(shuffle_rewards(rewarded, seed) if bpo.shuffle_rewards else rewarded, bpo)
    return replace(batch, samples=tuple(merge_duplicates(batch.samples)))


def update(graph: Graph, batch: CreditedBatch, loss: LossFn) -> dict[str, Any]:
    """One optimizer step on `batch`. Returns token means and step info."""
    sums = graph.learner.update(batch.samples, loss, num_tokens=batch.denominator)
    info = graph.learner.optim_step()
    step = {"loss": sums.get("loss", 0.0), "grad_norm": info.grad_norm, "lr": info.lr}
    return metric_means(sums) | step | {"learner": means_by_mode(sums)}


class RunLog:
    """What stays of a run: metrics, rollouts, checkpoints; finds the place to go on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.started = time.monotonic()
        self.tokens = 0  # drawn so far, those before an interruption too
        (path / "rollouts").mkdir(parents=True, exist_ok=True)

    def resume(self, graph: Graph) -> int:
        """Restores the last checkpoint, drops what was logged after it, publishes its weights; returns its step."""
        last = latest(self.path / "checkpoints")
        step = step_of(last) if last else 0
        lines = self.metrics.read_text().splitlines() if self.metrics.is_file() else []
        write_atomic(self.metrics, "".join(f"{line}\n" for line in lines[:step]))
        for part in sorted((self.path / "rollouts").glob("step-*.parquet"))[step:]:
            part.unlink()
        self.tokens = self.counts()["tokens"] if step else 0
        if last:
            graph.learner.restore(last)
            graph.publish(step)
        return step

    def checkpoint(self, graph: Graph, step: int) -> None:
        """Saves weights, optimizer and RNG; the folder appears in one piece."""
        graph.learner.save(checkpoint_path(self.path / "checkpoints", step))

    def step(self, step: int, groups: Sequence[RolloutGroup], probes: Sequence[Completion], learnt: dict[str, Any]) -> str:
        """Writes the step down; returns a note for the progress bar."""
        decision = think_rates(groups, probes)
        line = {
            "step": step,
            "version": step,
            "reward": _mean([r for g in groups for r in g.rewards_G]),
            "decision": decision,
            "auto": asdict(expected_auto(groups, probes)),
            **learnt,
            "seconds": round(time.monotonic() - self.started, 2),
            **summarize(groups).to_json(),
        }
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        _write_rollouts(self.path / "rollouts" / f"step-{step:05d}.parquet", groups)
        self.tokens += sum(c.num_tokens for g in groups for c in g.completions)
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
        rates.setdefault(level[c.prompt_id], []).append(float(not decides_direct(c.text)))
    return {name: _mean(rates[name]) for name in ("easy", "mid", "hard") if name in rates}


def _group(prompt: Prompt, completions: tuple[Completion, ...], references: Mapping[str, float]) -> RolloutGroup:
    rewards_G = tuple(correctness(c, prompt) for c in completions)
    return RolloutGroup(prompt, completions, rewards_G, references.get(prompt.id, math.nan))


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
