"""Rollout: tokens a second through the actor graph against bare `LLM.generate` in the same worker
on the same prompts.

One rollout worker, one lease of all groups; forced lengths (`benchmarks/peers/workload.py`). The
bare call is made inside the worker, on the same engine and with the same sampling, so that what
differs is leases, slices, Ray, ledger and records.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.rl_workers import RLWorkers
from benchmarks.peers.graph_parts import Figure, open_graph, open_loop, question, run
from benchmarks.peers.workload import Workload
from bimode.modes import Mode
from bimode.records import GenerationRequest

PROMPTS, GROUP = 16, 16
WARM_UP = 1
GOAL = ">= 0.97"


def bare(worker: Any, requests: list[GenerationRequest]) -> float:
    """Seconds of `LLM.generate` inside a rollout worker, from ids to its outputs."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    prompts, params = [], []
    for request in requests:
        prompts.append({"prompt_token_ids": list(worker._encode(request.prompt).token_ids)})
        params.append(
            SamplingParams(
                temperature=1.0,
                max_tokens=request.max_tokens,
                seed=request.seed,
                logprobs=0,
                flat_logprobs=True,
                stop_token_ids=[worker.renderer.eos_id],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                logit_bias=dict.fromkeys(worker.renderer.placeholder_ids, -100.0) or None,
            )
        )
    worker.reset_caches()
    began = time.perf_counter()
    outputs = worker._engine._llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - began
    assert [len(o.outputs[0].token_ids) for o in outputs] == [r.max_tokens for r in requests]
    return seconds


def _wait_until_live(graph: RLWorkers) -> None:
    while any(worker.version < graph.weights.version for worker in graph.fleet.workers):
        time.sleep(0.01)


def benchmark(rounds: int, folder: Path) -> Figure:
    """Both in turn, A B A B."""
    import ray

    from benchmarks.peers.model import draw_workload, write_model

    write_model(folder / "model")
    work = draw_workload(folder / "model", prompts=PROMPTS, group=GROUP)

    def requests_of(group_id: int) -> list[GenerationRequest]:
        at = group_id % PROMPTS
        lengths = work.lengths[at * GROUP : (at + 1) * GROUP]
        asked = question(group_id, work.questions[at])
        return [
            GenerationRequest(asked, Mode.AUTO, 1, 1.0, n, seed=group_id * GROUP + i)
            for i, n in enumerate(lengths)
        ]

    seconds: dict[str, list[float]] = {"graph": [], "bare": []}
    with (
        open_graph(folder / "model", 1) as graph,
        open_loop(
            graph,
            folder / "run",
            requests_of,
            groups_per_step=PROMPTS,
            lease_groups=PROMPTS,
        ) as loop,
    ):
        for step in range(WARM_UP + rounds):
            began = time.perf_counter()
            batch = loop.batch(step)
            graph_s = time.perf_counter() - began
            _check(work, batch)
            loop.mark_trained(batch, step)  # no worker takes a lease before the next push
            asked = [
                r
                for group_id in range(step * PROMPTS, (step + 1) * PROMPTS)
                for r in requests_of(group_id)
            ]
            bare_s = ray.get(graph.fleet.workers[0].actor.__ray_call__.remote(bare, asked))
            graph.weights.push(step + 1)
            _wait_until_live(graph)  # not part of it: benchmarks/sync.py
            if step >= WARM_UP:
                seconds["graph"].append(graph_s)
                seconds["bare"].append(bare_s)
    tokens = sum(work.lengths)
    rates = {name: [round(tokens / s, 1) for s in found] for name, found in seconds.items()}
    print(
        f"{tokens} tokens a round; tokens/s: graph {median(rates['graph']):.0f}, bare"
        f" {median(rates['bare']):.0f}"
    )
    return Figure("rollout", median(rates["graph"]) / median(rates["bare"]), GOAL, rates)


def _check(work: Workload, batch: Any) -> None:
    found = tuple(c.num_tokens for sampled in batch for c in sampled.group.completions)
    assert found == work.lengths, "a completion has another length than the workload's"


if __name__ == "__main__":
    run((__doc__ or "").splitlines()[0], 5, benchmark)
