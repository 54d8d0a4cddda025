"""GRPO, Dr. GRPO and DAPO against TRL's own trainer: the same rollouts and rewards give the same
loss and gradients.

TRL generates and scores the batch and computes its loss on padded rows; ours goes through credit,
packing and `Policy`.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bimode.config.rl import BpoConfig
from bimode.learner.packing import PackedBatch, pack, share_prompts
from bimode.learner.policy import Policy
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup
from bimode.rl.credit import assign
from bimode.rl.loss import LossInputs, Truncated, policy_loss

GROUP = 4  # = 2 g
TREE_TOKENS = 40  # the responses to a prompt do not all fit into one tree
CAP = 1.3  # of the importance weight
MAX_TOKENS = 7
REWARDS = (1.0, 0.0, 0.0, 1.0, 0.25, 0.5, 0.0, 1.0)


def reward(completions: list[str], **_: Any) -> list[float]:
    """Fixed rewards, in the order of the batch."""
    return list(REWARDS[: len(completions)])


@dataclass(frozen=True)
class TrlBatch:
    """What TRL's trainer drew, with old and reference log-probabilities that differ from the
    policy's.
    """

    trainer: Any
    inputs: dict[str, Any]
    config: BpoConfig

    def ids(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and completion of a row without padding."""
        parts = []
        for name in ("prompt", "completion"):
            keep = self.inputs[f"{name}_mask"][row].bool()
            parts.append(tuple(self.inputs[f"{name}_ids"][row][keep].tolist()))
        return parts[0], parts[1]

    def of_completions(self, name: str) -> list[tuple[float, ...]]:
        """A [B, T] input as one unpadded tuple a row."""
        mask_BT = self.inputs["completion_mask"].bool()
        return [
            tuple(row[keep].tolist()) for row, keep in zip(self.inputs[name], mask_BT, strict=True)
        ]


def grpo_args(config: BpoConfig, loss_type: str, folder: Path) -> Any:
    """TRL's settings for `config`."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        seed=0,
        loss_type=loss_type,
        scale_rewards="none" if config.normalize == "none" else "group",
        num_generations=GROUP,
        per_device_train_batch_size=len(REWARDS),
        gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        beta=0.1,
        epsilon=config.clip_low,
        epsilon_high=config.clip_high,
        gradient_checkpointing=False,
        # the paper's k3; TRL's default multiplies it by the ratio
        use_bias_correction_kl=False,
    )


@pytest.fixture(scope="module", params=["grpo", "dr_grpo", "dapo"])
def trl_batch(
    request: pytest.FixtureRequest, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrlBatch:
    """A real GRPOTrainer on the tiny text model, and one batch that it generated and scored, for
    the algorithm's config.
    """
    config = BpoConfig(algorithm=request.param, group_size=GROUP // 2, max_tokens=MAX_TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it has not met this version of vLLM, which it does not use here
        from trl import GRPOTrainer
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_text, pad_token="</s>", padding_side="left")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv(
            "LOCAL_RANK", raising=False
        )  # DeepSpeed wants one; accelerate takes it for a launcher
        args = grpo_args(config, request.param, tmp_path_factory.mktemp("trl"))
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_text, dtype=torch.float64),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["3 + 4 =", "what is 2 ?"]}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    inputs["completion_mask"][1, 4:] = 0  # random weights seldom stop early; lengths must differ
    inputs["completion_mask"][6, 2:] = 0
    inputs["num_items_in_batch"] = inputs[
        "completion_mask"
    ].sum()  # DAPO's denominator: tokens of the whole batch
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        now = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[
            0
        ].double()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        inputs[name] = now + 0.3 * torch.randn(now.shape, generator=noise, dtype=torch.float64)
    return TrlBatch(trainer, inputs, config)


def our_batch(trl_batch: TrlBatch) -> tuple[PackedBatch, Tensor, float]:
    """The same rollouts through credit and packing, the reference log-probabilities of their tokens
    [N], the denominator.
    """
    old = trl_batch.of_completions("old_per_token_logps")
    groups = []
    for start in range(0, len(REWARDS), GROUP):
        completions = []
        for row in range(start, start + GROUP):
            prompt_ids, token_ids = trl_batch.ids(row)
            completions.append(
                Completion(
                    prompt_id=str(start),
                    mode=Mode.AUTO,
                    prompt_ids=prompt_ids,
                    token_ids_T=token_ids,
                    num_forced=0,
                    logprobs_T=old[row],
                    versions_T=(1,) * len(token_ids),
                    text="",
                    finished=True,
                    worker="trl",
                )
            )
        prompt = Prompt(
            id=str(start),
            question="",
            images=(),
            answer="",
            verifier="",
            verifier_args="",
            task="",
            level="easy",
        )
        rewards = REWARDS[start : start + GROUP]
        groups.append(
            RolloutGroup(prompt=prompt, completions=tuple(completions), rewards_G=rewards)
        )
    credited = assign(groups, trl_batch.config)
    samples = credited.samples
    reference_N = torch.tensor(
        [x for row in trl_batch.of_completions("ref_per_token_logps") for x in row]
    )
    trees = share_prompts(samples, TREE_TOKENS)
    assert len(trees) < len(samples) and [i for tree in trees for i in tree] == list(
        range(len(samples))
    )
    packed = pack([[samples[i] for i in tree] for tree in trees], [()] * len(trees))
    return packed, reference_N, credited.denominator


def test_advantages_are_trls(trl_batch: TrlBatch) -> None:
    batch, *_ = our_batch(trl_batch)
    starts = [int((batch.sample_N == i).nonzero()[0]) for i in range(len(REWARDS))]
    torch.testing.assert_close(batch.advantages_N[starts], trl_batch.inputs["advantages"].float())
    assert trl_batch.inputs["advantages"].unique().numel() > 4


@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradients_are_trls(trl_batch: TrlBatch, kl: float, off_policy: bool) -> None:
    trainer, inputs = trl_batch.trainer, dict(trl_batch.inputs)
    trainer.beta = kl
    if not off_policy:
        inputs["old_per_token_logps"] = None
    others, gradients = their_loss(trainer, inputs)

    batch, reference_N, denominator = our_batch(trl_batch)
    policy = Policy(deepcopy(trainer.model))
    policy.zero_grad()
    logprobs_N, entropy_N = policy(batch)
    behavior_N = (
        batch.behavior_logprobs_N
        if off_policy
        else torch.full_like(batch.behavior_logprobs_N, torch.nan)
    )
    loss_inputs = LossInputs(
        logprobs_N, entropy_N, behavior_N, reference_N, batch.advantages_N, batch.loss_mask_N
    )
    config = trl_batch.config
    out = policy_loss(config.clip_low, config.clip_high, kl)(loss_inputs, denominator)
    out.loss.backward()

    clipped_N = out.values["clipped_low"] + out.values["clipped_high"]
    assert bool(clipped_N.any()) is off_policy  # the clip is really exercised
    assert out.loss.item() == pytest.approx(others.item(), rel=1e-5, abs=1e-6)
    assert_gradients(policy.model, gradients)


@pytest.mark.parametrize("moved", [False, True])
def test_truncated_importance_sampling_is_trls(
    trl_batch: TrlBatch, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """TRL's correction for a vLLM that disagrees with the trainer (`token_truncate`), before and
    after a first update.
    """
    trainer, inputs = trl_batch.trainer, dict(trl_batch.inputs)
    trainer.beta = 0.1
    monkeypatch.setattr(trainer, "use_vllm", True)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_correction", True)
    engine_BT = trl_batch.inputs["old_per_token_logps"]
    apart_BT = 0.5 * torch.randn(
        engine_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    proximal_BT = engine_BT + apart_BT if moved else current_logprobs(trl_batch)
    inputs["old_per_token_logps"] = proximal_BT if moved else None
    inputs["importance_sampling_ratio"] = (proximal_BT - engine_BT).exp().clamp(max=CAP)
    others, gradients = their_loss(trainer, inputs)

    batch, reference_N, denominator = our_batch(trl_batch)
    config = trl_batch.config
    mask_BT = trl_batch.inputs["completion_mask"].bool()
    policy = Policy(deepcopy(trainer.model))
    policy.zero_grad()
    logprobs_N, entropy_N = policy(batch)
    loss_inputs = LossInputs(
        logprobs_N,
        entropy_N,
        batch.behavior_logprobs_N,
        reference_N,
        batch.advantages_N,
        batch.loss_mask_N,
        proximal_logprobs_N=proximal_BT[mask_BT].float() if moved else None,
    )
    out = policy_loss(config.clip_low, config.clip_high, 0.1, Truncated(CAP))(
        loss_inputs, denominator
    )
    out.loss.backward()

    assert (
        0 < out.values["capped"].sum() < out.values["tokens"].sum()
    )  # some ratios are truncated, others are not
    assert bool((out.values["clipped_low"] + out.values["clipped_high"]).any()) is moved
    assert out.loss.item() == pytest.approx(others.item(), rel=1e-5, abs=1e-6)
    assert_gradients(policy.model, gradients)


def their_loss(trainer: Any, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """TRL's loss of `inputs`, and the gradient of every parameter."""
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def current_logprobs(trl_batch: TrlBatch) -> Tensor:
    """The policy's own log-probabilities [B, T] by TRL's forward pass."""
    given = trl_batch.inputs
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], dim=1)
    mask = torch.cat([given["prompt_mask"], given["completion_mask"]], dim=1)
    width = given["completion_ids"].shape[1]
    with torch.no_grad():
        found = trl_batch.trainer._get_per_token_logps_and_entropies(
            trl_batch.trainer.model, ids, mask, width
        )[0]
    return torch.as_tensor(found).double()


def assert_gradients(model: Any, expected: dict[str, Tensor]) -> None:
    """Every parameter's gradient is `expected`, and some are not small."""
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert max(g.abs().max() for g in expected.values()) > 1e-2
