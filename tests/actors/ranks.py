"""Two learner ranks in processes of their own, and what they report: run by test_learner.py, one
start for all cases.

Every rank calls `scenario` for each case, and `long_run` for those over many steps; rank 0 leaves
its findings in ``OUT/CASE.pt``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore
from torch.utils._python_dispatch import TorchDispatchMode

from actors.learner import distributed
from actors.learner.learner import Learner, LearnerSpec
from bimode.config.common import LearnerConfig, OptimConfig
from bimode.errors import DivergedError
from bimode.records import TrainingSample
from bimode.renderer import Renderer
from bimode.rl.loss import LossInputs, LossOutput, sft_loss
from tests.actors.sums import many_passes
from tests.sequences import loss_tokens, supervised

STEPS = 3
LONG = 20
OPTIM = OptimConfig(warmup_steps=1, schedule="constant", grad_clip=0.5)


@dataclass(frozen=True)
class Case:
    """One engine, precision and ZeRO stage."""

    name: str
    engine: str
    stage: int = 1
    dtype: str = "float32"
    train: tuple[str, ...] = ("vision", "projector", "language")
    lr: float = 3e-3
    lean: bool = False  # layers computed again, and the head in chunks


TWO_RANKS = (
    Case("torch", "torch"),
    Case("zero0", "deepspeed", 0),
    Case("zero1", "deepspeed", 1),
    Case("zero2", "deepspeed", 2),
    Case("zero3", "deepspeed", 3),
    Case("bf16z1", "deepspeed", 1, dtype="bfloat16"),
    Case("bf16z2", "deepspeed", 2, dtype="bfloat16"),
    Case("bf16z3", "deepspeed", 3, dtype="bfloat16", lean=True),
    Case("frozen", "deepspeed", 2, train=("language",)),
    Case("one", "deepspeed", 1, train=("projector",)),
)
ONE_RANK = (Case("alone", "torch"),)
TWO_RANKS_LONG = (
    Case("long1", "deepspeed", 1, lr=1e-3),
    Case("long2", "deepspeed", 2, lr=1e-3),
    Case("long3", "deepspeed", 3, lr=1e-3),
    Case("lean3", "deepspeed", 3, lr=1e-3, lean=True),
)
ONE_RANK_LONG = (
    Case("long_alone", "torch", lr=1e-3),
    Case("lean_alone", "torch", lr=1e-3, lean=True),
)


class Copies(TorchDispatchMode):
    """Counts the bytes of all tensors that are copied in the block."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self.nbytes += made.nbytes
        return made


def batches(renderer: Renderer, world: int, rank: int) -> list[tuple[list[TrainingSample], float]]:
    """Per step: this rank's share and the denominator. With two ranks the second holds few samples,
    then none with an image, then none at all.
    """
    steps = []
    for step in range(STEPS):
        whole = [
            *supervised(renderer, 9, first=20 * step),
            *supervised(renderer, 2, images=False, first=20 * step + 9),
        ]
        shares = {
            1: [whole],
            2: [[whole[:7], whole[7:]], [whole[:9], whole[9:]], [whole, []]][step],
        }[world]
        steps.append((shares[rank], loss_tokens(whole)))
    return steps


def long_batches(
    renderer: Renderer, world: int, rank: int
) -> list[tuple[list[TrainingSample], float]]:
    """The same for `LONG` steps of six samples, two of them without images; the second of two ranks
    gets two.
    """
    steps = []
    for step in range(LONG):
        whole = [
            *supervised(renderer, 4, first=6 * step),
            *supervised(renderer, 2, images=False, first=6 * step + 4),
        ]
        shares = {1: [whole], 2: [[*whole[:3], whole[5]], whole[3:5]]}[world]
        steps.append((shares[rank], loss_tokens(whole)))
    return steps


def nan_loss(inputs: LossInputs, num_tokens: float) -> LossOutput:
    """A loss that is not a number on the second rank."""
    out = sft_loss(inputs, num_tokens)
    return LossOutput(
        out.loss * (float("nan") if distributed.rank() == distributed.world() - 1 else 1.0),
        out.values,
    )


def steep_loss(inputs: LossInputs, num_tokens: float) -> LossOutput:
    """A finite loss with an infinite gradient: the square root at zero."""
    out = sft_loss(inputs, num_tokens)
    return LossOutput((out.loss - out.loss.detach()).sqrt() + 1.0, out.values)


def new_learner(case: Case, model_dir: Path) -> Learner:
    learner = LearnerConfig.model_validate(
        {
            "engine": case.engine,
            "zero_stage": case.stage,
            "micro_tokens": 320,
            "train": case.train,
            "gradient_checkpointing": case.lean,
            "head_chunk": 8 if case.lean else 0,
        }
    )
    optim = OPTIM.model_copy(update={"lr": case.lr})
    return Learner(LearnerSpec(model_dir, learner, optim, total_steps=9, dtype=case.dtype))


def train(
    learner: Learner, steps: list[tuple[list[TrainingSample], float]]
) -> tuple[list[float], list[float]]:
    """Losses over all ranks and gradient norms."""
    losses, norms = [], []
    for samples, num_tokens in steps:
        sums = learner.forward_backward(samples, sft_loss, num_tokens=num_tokens)
        losses.append(distributed.all_sum([sums["loss"]])[0])
        norms.append(learner.optim_step().grad_norm)
    return losses, norms


def refused(learner: Learner, loss: Any, samples: list[TrainingSample], num_tokens: float) -> str:
    """What the step said when it was refused; empty if it went through."""
    learner.forward_backward(samples, loss, num_tokens=num_tokens)
    try:
        learner.optim_step()
    except DivergedError as error:
        return str(error)
    return ""


def exported(learner: Learner, share: bool = False) -> dict[str, torch.Tensor]:
    """All weights as they leave the learner: copied, or read where it lends them."""
    sent = [learner.export_bucket(7, index, share) for index in range(len(learner.buckets))]
    assert all(bool(bucket.shared) is (share and distributed.rank() == 0) for bucket in sent)
    buckets = [bucket.load() for bucket in sent]
    assert all(bucket.checksum_ok() for bucket in buckets)
    copies = {
        n: torch.from_numpy(a.copy())
        for bucket in buckets
        for n, a in zip(bucket.names, bucket.arrays, strict=True)
    }
    return {n: t.view(torch.bfloat16) if t.dtype is torch.uint16 else t for n, t in copies.items()}


def scenario(case: Case, model_dir: Path, out: Path) -> None:
    """Trains, saves, goes on, comes back and goes on again, and is refused twice."""
    steps = batches(Renderer(model_dir), distributed.world(), distributed.rank())
    learner = new_learner(case, model_dir)
    losses, norms = train(learner, steps[:2])
    checkpoint = out / case.name / "step-000002"
    learner.save(checkpoint)
    rest = train(learner, steps[2:])
    weights = exported(learner)
    with Copies() as copies:
        learner.save_model(out / case.name / "model")
    again = new_learner(case, model_dir)
    can_lend = again.share()  # its weights move, and everything goes on as if they had not
    assert can_lend is (case.stage < 3)
    again.restore(checkpoint)
    assert again.step == 2
    train(again, steps[2:])
    resumed = exported(again, share=can_lend)
    said = [refused(again, steep_loss, *steps[0])]
    after_steep = exported(again)
    if (
        case.engine == "torch"
    ):  # gradients of the refused step are still there; DeepSpeed drops its own
        again = new_learner(case, model_dir)
        again.restore(checkpoint)
    before_nan = exported(again)
    said.append(refused(again, nan_loss, *steps[0]))
    after_nan = exported(again)
    on_first = copies.nbytes if distributed.rank() == 0 else 0
    copied = distributed.all_sum([on_first, copies.nbytes - on_first])
    complaints = [distributed.all_sum([float(bool(text))])[0] for text in said]
    found = {
        "losses": losses + rest[0],
        "norms": norms + rest[1],
        "weights": weights,
        "resumed": resumed,
        "after_steep": after_steep,
        "before_nan": before_nan,
        "after_nan": after_nan,
        "said": said,
        "complaints": complaints,
        "copied": copied,
    }
    if distributed.rank() == 0:
        torch.save(found, out / f"{case.name}.pt")
    distributed.barrier()


def long_run(case: Case, model_dir: Path, out: Path) -> None:
    """Trains `LONG` steps from the start."""
    learner = new_learner(case, model_dir)
    losses, norms = train(
        learner, long_batches(Renderer(model_dir), distributed.world(), distributed.rank())
    )
    found = {
        "losses": losses,
        "norms": norms,
        "weights": exported(learner),
        "checkpointing": learner.model.is_gradient_checkpointing,
    }
    if distributed.rank() == 0:
        torch.save(found, out / f"{case.name}.pt")
    distributed.barrier()


def main(rank: int, world: int, meeting: Path, model_dir: Path, out: Path) -> None:
    torch.set_num_threads(1)
    distributed.join(rank, world, FileStore(str(meeting), world))
    for case in TWO_RANKS if world == 2 else ONE_RANK:
        scenario(case, model_dir, out)
    for case in TWO_RANKS_LONG if world == 2 else ONE_RANK_LONG:
        long_run(case, model_dir, out)
    many_passes(out, stages=(1, 2, 3) if world == 2 else (1,))
    distributed.leave()


if __name__ == "__main__":
    main(
        int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5])
    )
