"""A gradient summed over many micro-batches by DeepSpeed in bfloat16, and in float32."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.learner import distributed
from actors.learner.engines import DeepSpeedEngine, adamw, named_tensors, set_lr
from bimode.config.common import OptimConfig

PASSES = 512
LR = 1e-2
OPTIM = OptimConfig(grad_clip=1e9, weight_decay=0.0)


class Regression(nn.Module):
    """Two layers; the first is larger than what ZeRO-3 keeps whole (100,000 elements)."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 32))
        self.model = layers.to(torch.bfloat16).to(dtype)  # the same start in every type

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs.to(next(self.parameters()).dtype))


def loss_of(outputs: Tensor) -> Tensor:
    """Every pass pulls the outputs towards 1: gradients that agree are the worst case for a sum."""
    return (outputs.float() - 1.0).pow(2).mean() / (PASSES * distributed.world())


def inputs_of_passes() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + distributed.rank())
    return [torch.randn(8, 256, generator=generator).to(torch.bfloat16) for _ in range(PASSES)]


def summed_in_float32(dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    """The norm of the sum over all passes of all ranks, and the weights after one AdamW step.

    The passes are computed in `dtype`, and everything else in float32.
    """
    policy, whole = Regression(dtype), Regression(torch.float32)
    total = [torch.zeros_like(p) for p in whole.parameters()]
    for inputs in inputs_of_passes():
        gradients = torch.autograd.grad(loss_of(policy(inputs)), list(policy.parameters()))
        for sum_of_one, gradient in zip(total, gradients, strict=True):
            sum_of_one += gradient.float()
    for parameter, gradient in zip(whole.parameters(), total, strict=True):
        dist.all_reduce(gradient)
        parameter.grad = gradient
    optimizer = adamw(whole, OPTIM)
    set_lr(optimizer, LR)
    optimizer.step()
    norm = float(torch.cat([gradient.flatten() for gradient in total]).norm())
    return norm, {name: p.detach() for name, p in whole.model.named_parameters()}


def summed_by_deepspeed(stage: int) -> tuple[float, dict[str, Tensor]]:
    """The same of ZeRO `stage` in bfloat16."""
    engine = DeepSpeedEngine(Regression(torch.bfloat16), OPTIM, torch.bfloat16, stage)
    for inputs in inputs_of_passes():
        engine.backward(loss_of(engine.engine(inputs)))
    norm = engine.step(LR)
    return norm, engine.weights({name for name, _ in named_tensors(engine.engine.module.model)})


def many_passes(out: Path, stages: tuple[int, ...]) -> None:
    """Leaves norms and weights in ``OUT/passesN.pt`` of N ranks; the first weights as `start`."""
    start = {name: p.detach() for name, p in Regression(torch.float32).model.named_parameters()}
    found = {"start": (0.0, start)}
    found["float32"] = summed_in_float32(torch.float32)
    found["bfloat16"] = summed_in_float32(torch.bfloat16)
    found |= {f"zero{stage}": summed_by_deepspeed(stage) for stage in stages}
    if distributed.rank() == 0:
        torch.save(found, out / f"passes{distributed.world()}.pt")
    distributed.barrier()
