"""The head in chunks, without a log softmax, and recomputed layers change memory, not numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bimode.learner import policy
from bimode.learner.packing import PackedBatch, pack
from bimode.learner.policy import Policy, TokenLogprobs
from bimode.renderer import Renderer, load_model
from tests.sequences import supervised


@pytest.fixture(scope="module")
def batch(tiny_llava: Path) -> PackedBatch:
    """Six responses, some about images."""
    renderer = Renderer(tiny_llava)
    samples = [*supervised(renderer, 4), *supervised(renderer, 2, images=False, first=4)]
    return pack([[s] for s in samples], [renderer.encode_images(s.images) for s in samples])


def run(
    model: nn.Module, batch: PackedBatch, head_chunk: int
) -> tuple[float, dict[str, Tensor], list[tuple[int, ...]]]:
    """Loss (entropy included), gradient by name, and the shape of all logits, also of those that
    are computed again.
    """
    shapes: list[tuple[int, ...]] = []

    def told(*args: Tensor) -> Tensor:
        out = nn.functional.linear(*args)
        shapes.append(tuple(out.shape))
        return out

    model.zero_grad()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(policy, "linear", told)
        logprobs_N, entropy_N = Policy(model, head_chunk).train()(batch)
        loss = (batch.loss_mask_N * (0.1 * entropy_N - logprobs_N)).sum() / batch.loss_mask_N.sum()
        loss.backward()
    return (
        loss.item(),
        {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
        shapes,
    )


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            got[name], gradient, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert max(g.abs().max() for g in expected.values()) > 1e-2


def test_the_head_in_chunks_gives_the_same_loss_and_gradient(
    tiny_llava: Path, batch: PackedBatch
) -> None:
    model = load_model(tiny_llava, torch.float32)
    n, vocabulary = len(batch.targets_N), model.lm_head.weight.shape[0]
    loss, gradient, shapes = run(model, batch, 0)
    assert shapes == [(n, vocabulary)] and n % 8
    in_chunks, chunked, seen = run(model, batch, 8)
    assert in_chunks == pytest.approx(loss, abs=1e-6)
    assert_equal(chunked, gradient)
    assert max(seen) == (8, vocabulary)
    assert len(seen) == 2 * -(-n // 8)  # each chunk once forward, once again for its backward pass


def test_what_fits_into_one_chunk_is_not_computed_again(
    tiny_llava: Path, batch: PackedBatch
) -> None:
    model, n = load_model(tiny_llava, torch.float32), len(batch.targets_N)
    assert len(run(model, batch, n)[2]) == 1
    assert len(run(model, batch, n - 1)[2]) == 4


def test_gradient_checkpointing_gives_the_same_loss_and_gradient(
    tiny_llava: Path, batch: PackedBatch
) -> None:
    model = load_model(tiny_llava, torch.float32)
    passes: list[int] = []
    model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    loss, gradient, _ = run(model, batch, 0)
    assert len(passes) == 1
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again, recomputed, _ = run(model, batch, 0)
    assert len(passes) == 3  # forward, and once more in the backward pass
    assert again == pytest.approx(loss, abs=1e-6)
    assert_equal(recomputed, gradient)


def test_logprobs_entropy_and_their_gradient_are_those_of_log_softmax() -> None:
    torch.manual_seed(0)
    logits_NV = (5.0 * torch.randn(6, 11, dtype=torch.float64) + 40.0).requires_grad_()
    targets_N, weight_N = torch.tensor([0, 10, 3, 3, 7, 1]), torch.randn(6, dtype=torch.float64)
    logprobs_N, entropy_N = TokenLogprobs.apply(logits_NV, targets_N)
    logp_NV = torch.log_softmax(logits_NV, -1)
    expected_N = logp_NV[torch.arange(6), targets_N]
    torch.testing.assert_close(logprobs_N, expected_N)
    torch.testing.assert_close(entropy_N, -(logp_NV.exp() * logp_NV).sum(-1))
    assert not entropy_N.requires_grad
    gradients = [
        torch.autograd.grad((weight_N * each).sum(), logits_NV)[0]
        for each in (logprobs_N, expected_N)
    ]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradcheck(lambda x: TokenLogprobs.apply(x, targets_N)[0], (logits_NV,))
