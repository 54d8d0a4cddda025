"""Our side of benchmarks/step.py: the actor graph of BPO, one rollout worker (vLLM) and one
learner, each an actor.

python -m benchmarks.peers.our_step FOLDER THREADS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from actors.learner.learner import LearnerSpec
from actors.rl_workers import RLWorkers, start_workers
from benchmarks.peers.our_learner import learner_config
from benchmarks.peers.talk import Answer, Line
from benchmarks.peers.workload import Workload
from bimode.config.recipe import ClusterConfig, ModelConfig
from bimode.config.rl import BpoConfig, BpoOptimConfig
from bimode.modes import Mode
from bimode.records import Completion, GenerationRequest, Prompt, RolloutGroup
from bimode.rl.credit import assign
from bimode.rl.loss import policy_loss
from cluster.session import connect


def requests_of(work: Workload, step: int) -> list[GenerationRequest]:
    """A request for each completion, since each has its length; auto mode forces nothing, so all of
    its tokens are drawn.
    """
    prompts = [
        Prompt(
            str(p),
            question=q,
            images=(),
            answer="",
            verifier="",
            verifier_args="",
            task="",
            level="easy",
        )
        for p, q in enumerate(work.questions)
    ]
    return [
        GenerationRequest(
            prompts[i // work.group], Mode.AUTO, 1, 1.0, length, seed=step * len(work.lengths) + i
        )
        for i, length in enumerate(work.lengths)
    ]


def groups_of(
    work: Workload, requests: list[GenerationRequest], completions: list[Completion]
) -> list[RolloutGroup]:
    """Rewarded groups. Raises ValueError if a completion has not the length that was asked for."""
    if tuple(c.num_tokens for c in completions) != work.lengths:
        raise ValueError(
            "a completion has another length than the workload's: the model has ended one by itself"
        )
    starts = range(0, len(requests), work.group)
    return [
        RolloutGroup(
            requests[s].prompt,
            tuple(completions[s : s + work.group]),
            work.rewards[s : s + work.group],
        )
        for s in starts
    ]


def one_step(graph: RLWorkers, work: Workload, bpo: BpoConfig, step: int) -> Answer:
    """Generation with log-probabilities, credit, loss, backward, optimizer step, new weights live
    in the engine.
    """
    clock = [time.perf_counter()]
    requests = requests_of(work, step)
    completions = [c for result in graph.generate(requests) for c in result.completions]
    clock.append(time.perf_counter())
    batch = assign(groups_of(work, requests, completions), bpo)
    graph.learner.update(
        batch.samples, policy_loss(bpo.clip_low, bpo.clip_high, 0.0), batch.denominator
    )
    graph.learner.optim_step()
    clock.append(time.perf_counter())
    graph.weights.push(step)
    graph.weights.catch_up()  # a run leaves that to the workers; here it belongs to the step
    clock.append(time.perf_counter())
    parts = {
        name: b - a
        for name, a, b in zip(("generate", "learn", "sync"), clock, clock[1:], strict=False)
    }
    return Answer(clock[-1] - clock[0], work.tokens, parts)


def main(folder: Path, threads: int) -> None:
    line = Line()
    work = Workload.load(folder)
    bpo = BpoConfig(algorithm="grpo", decision="trained", group_size=work.group // 2)
    options = {"num_cpus": 1}
    with connect(ClusterConfig(threads=threads)):
        optim = BpoOptimConfig(lr=1e-6)
        graph = start_workers(
            ModelConfig(max_model_len=512),
            LearnerSpec(folder / "model", learner_config(work), optim, 1000, "float32"),
            rollout_workers=1,
            rollout_options=options,
            learner_options=options,
            sync=bpo.sync,
            worker_timeout_s=bpo.worker_timeout_s,
            sync_timeout_s=bpo.sync_timeout_s,
        )
        with graph:
            graph.learner.ready()
            graph.weights.catch_up()
            line.on_event(Answer())
            while line.next():
                line.on_event(one_step(graph, work, bpo, graph.weights.version + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
