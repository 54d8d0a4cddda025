"""The kernels of a CPU engine give what vLLM's own normalisation gives (that a rollout worker uses
them: test_rollout_worker).
"""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.ray


def test_they_give_what_vllms_own_give() -> None:
    from vllm import ir

    from actors.cpu import kernels

    torch.manual_seed(0)
    norm, added = ir.ops.rms_norm.impls, ir.ops.fused_add_rms_norm.impls
    whole, split = (
        torch.randn(7, 256),
        torch.randn(7, 3, 8, 32)[:, 1],
    )  # the second lies apart, as heads of queries do
    for x in (whole, split, torch.randn(0, 64)):
        weight = torch.randn(x.shape[-1])
        assert norm[kernels.NAME].supports_args(x, weight, 1e-6)
        expected, got = (norm[name].impl_fn(x, weight, 1e-6) for name in ("native", kernels.NAME))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    weight, residual = torch.randn(256), torch.randn(7, 256)
    expected = added["native"].impl_fn(whole, residual, weight, 1e-6)
    got = added[kernels.NAME].impl_fn(whole.clone(), residual.clone(), weight, 1e-6)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_what_they_cannot_do_is_left_to_vllm() -> None:
    from vllm import ir

    from actors.cpu import kernels

    norm, added = (
        ir.ops.rms_norm.impls[kernels.NAME],
        ir.ops.fused_add_rms_norm.impls[kernels.NAME],
    )
    x, weight = torch.randn(4, 64), torch.randn(64)
    assert norm.supports_args(x, weight, 1e-6) and added.supports_args(x, x, weight, 1e-6)
    assert not norm.supports_args(x, None, 1e-6)
    assert not norm.supports_args(x, weight, 1e-6, 32)
    assert not norm.supports_args(x, weight.double(), 1e-6)
    assert not norm.supports_args(torch.randn(4, 24), torch.randn(24), 1e-6)
    assert not added.supports_args(x, torch.randn(64, 4).T, weight, 1e-6)
