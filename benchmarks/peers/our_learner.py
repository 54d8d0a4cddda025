"""Our side of benchmarks/learner.py: `Learner` with the default recipe's engine, on packed rows.

python -m benchmarks.peers.our_learner FOLDER
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

from safetensors.torch import save_file

from actors.learner.learner import Learner, LearnerSpec
from benchmarks.peers.talk import Answer, Line
from benchmarks.peers.workload import MICRO_BATCH, Workload
from bimode.config.common import LearnerConfig
from bimode.config.rl import BpoConfig, BpoOptimConfig
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup
from bimode.rl.credit import CreditedBatch, assign
from bimode.rl.loss import policy_loss


def learner_config(work: Workload) -> LearnerConfig:
    """The default recipe's, with at most as many tokens in a pass as TRL's rectangle has."""
    return LearnerConfig(micro_tokens=MICRO_BATCH * work.width)


def credited(work: Workload) -> CreditedBatch:
    """The workload through GRPO's credit; behavior log-probabilities unknown, so that both sides
    take their own.
    """
    groups = []
    for p, prompt_ids in enumerate(work.prompt_ids):
        rows = range(p * work.group, (p + 1) * work.group)
        prompt = Prompt(
            str(p),
            question="",
            images=(),
            answer="",
            verifier="",
            verifier_args="",
            task="",
            level="easy",
        )
        completions = tuple(
            Completion(
                prompt_id=prompt.id,
                mode=Mode.AUTO,
                prompt_ids=prompt_ids,
                token_ids_T=work.responses[i],
                num_forced=0,
                logprobs_T=(math.nan,) * work.lengths[i],
                versions_T=(0,) * work.lengths[i],
                text="",
                finished=True,
                worker="",
            )
            for i in rows
        )
        groups.append(RolloutGroup(prompt, completions, tuple(work.rewards[i] for i in rows)))
    return assign(
        groups, BpoConfig(algorithm="grpo", decision="trained", group_size=work.group // 2)
    )


def save_gradients(learner: Learner, path: Path) -> None:
    """The gathered gradient of every parameter, whichever engine holds it."""
    from deepspeed.utils import safe_get_full_grad

    found = {}
    for name, parameter in learner.model.named_parameters():
        gradient = parameter.grad if parameter.grad is not None else safe_get_full_grad(parameter)
        found[name] = gradient.detach().clone()
    save_file(found, path)


def main(folder: Path) -> None:
    line = Line()
    work = Workload.load(folder)
    batch = credited(work)
    loss = policy_loss(0.2, 0.2, 0.0)
    optim = BpoOptimConfig(lr=1e-6)
    spec = LearnerSpec(folder / "model", learner_config(work), optim, 1000, "float32")
    learner = Learner(spec)
    line.on_event(Answer())
    while verb := line.next():
        start = time.perf_counter()
        learner.forward_backward(batch.samples, loss, num_tokens=batch.denominator)
        if verb == "gradients":
            save_gradients(learner, folder / "ours.safetensors")
        learner.optim_step()
        line.on_event(Answer(time.perf_counter() - start, work.tokens))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
