"""Two engines behind one interface: plain torch (the oracle, and enough for one device) and
DeepSpeed (ZeRO 0-3).

The learner hands over losses that are already sum / num_tokens with the number of tokens over ALL
ranks, so gradients have to be *summed* over ranks, and clipped after the sum. Both engines do that,
with the same AdamW, groups and learning rate.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.learner import distributed
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.errors import ConfigError, DivergedError
from bimode.learner.packing import PackedBatch
from bimode.learner.policy import Policy
from bimode.models.families import FAMILIES, TEXT, Part
from bimode.models.import_without_gc import import_without_gc

# DeepSpeed allocates its reduction buffer in full, so never more than the model has
BUCKET_ELEMENTS = 200_000_000


class Engine(Protocol):
    """Forward, backward, step, full weights, save, restore. All but `forward` are collective."""

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Return (logprobs_N, entropy_N) with a graph."""

    def backward(self, loss: Tensor) -> None:
        """Add this rank's gradient; call it equally often on every rank before `step`."""

    def step(self, lr: float) -> float:
        """Sum over ranks, clip, update; return the norm before clipping.

        Raises DivergedError, and moves nothing, if the norm is not finite.
        """

    def weights(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the named parameters and buffers, whole and on the host, until the next `step`;
        empty on ranks other than 0.
        """

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state into `folder`."""

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote with as many ranks."""


def build_engine(
    policy: Policy, learner: LearnerConfig, optim: OptimConfig, dtype: torch.dtype
) -> Engine:
    """Make the engine that `learner.engine` names; it trains the parts of `learner.train`."""
    freeze(policy, learner.train)
    distributed.ensure_group()
    if learner.engine == "torch":
        return TorchEngine(policy, optim, dtype)
    return DeepSpeedEngine(policy, optim, dtype, learner.zero_stage)


def freeze(policy: Policy, trained: Collection[Part]) -> None:
    """Freeze the parameters of all parts but `trained`. Raises ConfigError if none is left."""
    kind = policy.model.config.model_type
    family = FAMILIES.get(kind, FAMILIES[TEXT])
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(family.part_of(name) in trained)
    if not any(parameter.requires_grad for parameter in policy.model.parameters()):
        fix = f"a model of type {kind} has no such part; name language"
        raise ConfigError("learner.train", ", ".join(trained), fix)


def adamw(policy: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW with weight decay on matrices only, not on norms and biases."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=optim.lr, betas=optim.betas, foreach=True
    )


class TorchEngine:
    """Plain torch: weights and optimizer whole on every rank; bfloat16 is autocast over float32
    weights.
    """

    def __init__(self, policy: Policy, optim: OptimConfig, dtype: torch.dtype) -> None:
        self.policy = policy.to(distributed.device())
        self.dtype, self.grad_clip = dtype, optim.grad_clip
        self.optimizer = adamw(policy, optim)

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast(
            distributed.device().type, torch.bfloat16, enabled=self.dtype is torch.bfloat16
        ):
            return self.policy(batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        if distributed.world() > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(
                gradients, flat.split([g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip))
        _refuse_non_finite(norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self, names: Collection[str]) -> dict[str, Tensor]:
        if distributed.rank() != 0:
            return {}
        return {
            name: tensor.detach().cpu()
            for name, tensor in named_tensors(self.policy.model)
            if name in names
        }

    def save(self, folder: Path) -> None:
        if distributed.rank() == 0:
            state = {
                "model": self.policy.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, folder / "torch.pt")

    def restore(self, folder: Path) -> None:
        state = torch.load(
            folder / "torch.pt", map_location=distributed.device(), weights_only=True
        )
        self.policy.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed's engine with ZeRO `stage`; the number of backward passes a step is ours to choose
    (unmanaged accumulation).
    """

    def __init__(self, policy: Policy, optim: OptimConfig, dtype: torch.dtype, stage: int) -> None:
        deepspeed = import_without_gc("deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        # Where there is a compiler, DeepSpeed would spend a minute or two on a shared-memory
        # all-reduce before the first step.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.deepspeed = deepspeed
        optimizer = adamw(policy, optim)
        self.plain = (
            stage == 0 and dtype is torch.float32
        )  # DeepSpeed then calls our optimizer directly
        self.norm = math.nan
        if self.plain:
            self.trained = [p for p in policy.parameters() if p.requires_grad]
            self.grad_clip = optim.grad_clip
            optimizer.register_step_pre_hook(self._clip)
        elements = min(BUCKET_ELEMENTS, sum(p.numel() for p in policy.parameters()))
        self.engine = deepspeed.initialize(
            model=policy,
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_batch_size": distributed.world(),
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,
                "gradient_clipping": 0.0 if self.plain else optim.grad_clip,
                "zero_optimization": {
                    "stage": stage,
                    "reduce_bucket_size": elements,
                    "allgather_bucket_size": elements,
                },
                "bf16": {"enabled": dtype is torch.bfloat16, "check_grad_overflow": True},
                "data_types": {"grad_accum_dtype": "fp32"},  # a bfloat16 sum loses small addends
                "steps_per_print": None,
            },
        )[0]

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        return self.engine(batch)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed divides the reduced gradient by the number of ranks. The loss is divided by the
        # tokens of all ranks already, so that mean is undone here, once, and nowhere else.
        self.engine.backward(loss * distributed.world())

    def step(self, lr: float) -> float:
        set_lr(self.engine.optimizer, lr)
        # a norm that is not finite makes DeepSpeed skip the update on every rank
        self.engine.step()
        norm = self.norm if self.plain else float(self.engine.get_global_grad_norm())
        _refuse_non_finite(norm)
        return norm

    def _clip(self, *_: Any) -> None:
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.grad_clip))
        _refuse_non_finite(self.norm)

    def weights(self, names: Collection[str]) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        is_first = distributed.rank() == 0
        for name, tensor in named_tensors(self.engine.module.model):
            if name not in names:
                continue
            if not hasattr(tensor, "ds_id"):  # not sharded: ZeRO 0-2, or a buffer
                if is_first:
                    weights[name] = tensor.detach().cpu()
                continue
            with self.deepspeed.zero.GatheredParameters([tensor]):  # every rank takes part
                if is_first:
                    weights[name] = tensor.detach().to("cpu", copy=True)  # `tensor` is freed
        return weights

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)

    def restore(self, folder: Path) -> None:
        self.engine.load_checkpoint(str(folder), tag="deepspeed")


def set_lr(optimizer: Any, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return the parameters (tied ones once) and the buffers of a state dict."""
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _refuse_non_finite(norm: float) -> None:
    if not math.isfinite(norm):
        raise DivergedError(
            f"gradient norm is {norm}: nothing was updated; lower optim.lr or look at the last"
            " batch"
        )


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Return the learning rate of 0-based `step`; steps past the end keep the last value.

    With peak lr, W warm-up steps, S steps in all and s = 0 .. S - 1:

        s <  W    lr (s + 1) / W
        s >= W    lr (f + (1 - f) (1 + cos(pi p)) / 2)
        p = (s - W) / (S - 1 - W),   f = final_lr_share

    so the last step runs at f lr; R-4B anneals from 4e-5 to 4e-6 (arXiv 2508.21113, appendix B).
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    progress = min(1.0, (step - optim.warmup_steps) / max(1, total_steps - 1 - optim.warmup_steps))
    share = optim.final_lr_share
    return optim.lr * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))
