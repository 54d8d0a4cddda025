"""Small rollout groups for tests of credit, and the policy loss of their samples under free
logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimode.config.rl import BpoConfig
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup, TrainingSample
from bimode.rl.credit import modes_drawn
from bimode.rl.loss import LossInputs, policy_loss

NAN = math.nan
THINK, DIRECT, CLOSE, WORD, END = 10, 11, 12, 13, 14
FORCED = {Mode.THINKING: (THINK,), Mode.NON_THINKING: (DIRECT, CLOSE), Mode.AUTO: ()}
TEXTS = {
    Mode.THINKING: "\nso\n</think>\n\n7",
    Mode.NON_THINKING: "\n\n</think>\n\n7",
    Mode.AUTO: "\n\n</think>\n\n7",
}


def completion(mode: Mode, generated: int, version: int = 3, text: str = "") -> Completion:
    """`generated` tokens after the forced ones, the last of them END. Without a `text`, auto mode
    answers at once.
    """
    forced = FORCED[mode]
    token_ids = (*forced, *[WORD] * (generated - 1), END)
    return Completion(
        prompt_id="q",
        mode=mode,
        prompt_ids=(1, 2),
        token_ids_T=token_ids,
        num_forced=len(forced),
        logprobs_T=(*[NAN] * len(forced), *[-0.5] * generated),
        versions_T=(version,) * len(token_ids),
        text=text or TEXTS[mode],
        finished=True,
        worker="w0",
    )


def group(
    completions: Sequence[Completion], rewards: Sequence[float], level: str = "easy"
) -> RolloutGroup:
    prompt = Prompt(
        id="q",
        question="?",
        images=(b"png",),
        answer="7",
        verifier="exact",
        verifier_args="{}",
        task="t",
        level=level,
    )
    return RolloutGroup(prompt=prompt, completions=tuple(completions), rewards_G=tuple(rewards))


def paired(
    thinking: Sequence[float], direct: Sequence[float], auto: Sequence[float] = (), length: int = 4
) -> RolloutGroup:
    """One group: thinking rollouts of `length` generated tokens, direct and auto ones of 2, with
    these rewards.
    """
    modes = (
        [Mode.THINKING] * len(thinking)
        + [Mode.NON_THINKING] * len(direct)
        + [Mode.AUTO] * len(auto)
    )
    return group(
        [completion(m, length if m is Mode.THINKING else 2) for m in modes],
        [*thinking, *direct, *auto],
    )


def as_drawn(config: BpoConfig, rewards: Sequence[float], reference: float = 0.5) -> RolloutGroup:
    """A group of exactly what `config` draws, each completion one token longer than the one
    before.
    """
    modes = [mode for mode, n in modes_drawn(config) for _ in range(n)]
    sampled = group([completion(mode, 2 + i) for i, mode in enumerate(modes)], rewards)
    return replace(sampled, reference_reward=reference)


def config(
    algorithm: str = "bpo", decision: str = "", g: int = 2, **values: float | str
) -> BpoConfig:
    """The algorithm's own decision where none is given."""
    given = {"decision": decision} if decision else {}
    return BpoConfig(algorithm=algorithm, group_size=g, **given, **values)


def loss_of(
    samples: Sequence[TrainingSample],
    logits_NV: torch.Tensor | None = None,
    reference_N: torch.Tensor | None = None,
) -> tuple[float, np.ndarray]:
    """Policy loss of `samples` under free logits, and its gradient on them [N, V]; the policy is
    its own reference.
    """
    tokens = [t for s in samples for t in s.token_ids_T]
    logits_NV = (
        torch.zeros(len(tokens), 20, dtype=torch.float64) if logits_NV is None else logits_NV
    )
    logits_NV = logits_NV.clone().requires_grad_()
    logprobs_N = torch.log_softmax(logits_NV, -1)[torch.arange(len(tokens)), torch.tensor(tokens)]
    behavior_N = torch.tensor(
        [b for s in samples for b in s.behavior_logprobs_T], dtype=torch.float64
    )
    behavior_N = torch.where(behavior_N.isnan(), behavior_N, logprobs_N.detach())  # on policy
    weights_N = torch.tensor([w for s in samples for w in s.loss_mask_T], dtype=torch.float64)
    advantages_N = torch.tensor([a for s in samples for a in s.advantages_T], dtype=torch.float64)
    reference_N = logprobs_N.detach() if reference_N is None else reference_N
    entropy_N = torch.zeros_like(logprobs_N)
    inputs = LossInputs(logprobs_N, entropy_N, behavior_N, reference_N, advantages_N, weights_N)
    loss = policy_loss(0.2, 0.2, 0.01)(inputs, weights_N.sum().item()).loss
    loss.backward()
    return loss.item(), logits_NV.grad.numpy()


def push_on_think(
    p: float, samples: Sequence[TrainingSample], reference: float | None = None
) -> float:
    """d loss / d log-odds of thinking, decisions only, where the policy thinks with `p`, the
    reference `reference`.
    """
    fields = ("token_ids_T", "loss_mask_T", "advantages_T", "behavior_logprobs_T")
    decisions = [replace(s, **{f: getattr(s, f)[:1] for f in fields}) for s in samples]
    logits_NV = torch.full((len(decisions), 20), -1e9, dtype=torch.float64)
    logits_NV[:, THINK], logits_NV[:, DIRECT] = math.log(p), math.log(1 - p)
    reference_N = None
    if reference is not None:
        odds = {Mode.THINKING: reference, Mode.NON_THINKING: 1 - reference}
        reference_N = torch.tensor([math.log(odds[s.mode]) for s in decisions], dtype=torch.float64)
    grad_NV = loss_of(decisions, logits_NV, reference_N)[1]
    assert grad_NV[:, THINK].sum() == pytest.approx(-grad_NV[:, DIRECT].sum())
    return float(grad_NV[:, THINK].sum())
