"""RMS normalisation on a CPU by the C kernels that vLLM ships for it.

vLLM 0.32 lets GPUs alone have them, and normalises on a CPU by six operators of PyTorch: 60 us for
48 tokens, where the kernel takes 5, and a layer does it two to four times. Importing this registers
them with vLLM as `NAME`; an engine that is made with `PRIORITY` uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import _custom_ops, ir  # noqa: F401  the first loads the kernels

NAME = "cpu_c"
PRIORITY = {"rms_norm": [NAME], "fused_add_rms_norm": [NAME]}
LANES = 16  # a row has to be a whole number of vectors, of 16 numbers at most


def _takes(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return (
        variance_size is None
        and weight is not None
        and weight.dtype == x.dtype
        and x.shape[-1] % LANES == 0
    )


def _takes_both(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return (
        _takes(x, weight, epsilon, variance_size)
        and x.is_contiguous()
        and x_residual.is_contiguous()
    )


@ir.ops.rms_norm.register_impl(NAME, supports_args=_takes)
def rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> Tensor:
    """`vllm.ir.ops.rms_norm`."""
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(out, x.contiguous(), weight, epsilon)
    return out


@ir.ops.fused_add_rms_norm.register_impl(NAME, supports_args=_takes_both, inplace=True)
def fused_add_rms_norm(
    x: Tensor,
    x_residual: Tensor,
    weight: Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`vllm.ir.ops.fused_add_rms_norm`, in place."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual
