"""Packed rows are the unpacked sequences: same log-probabilities, same loss, same gradient, for text and for images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bimode.base import prepare_base
from bimode.codec import Codec, load_model
from bimode.packing import PackedBatch, pack, plan_micro_batches, plan_rows, split_evenly
from bimode.policy import Policy
from bimode.records import TrainingSample
from tests.sequences import loss_tokens, supervised

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


@pytest.fixture(scope="module", params=["image_text", "text", "mixed"])
def case(
    request: pytest.FixtureRequest, tiny_llava: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Codec, Policy, list[TrainingSample]]]:
    """A codec, its policy, and samples: with images, without, and some of both in one batch."""
    path = tiny_llava
    if request.param == "text":
        path, _ = prepare_base(str(tiny_text), tmp_path_factory.mktemp("text") / "base", seed=0)
    codec = Codec(path)
    samples = supervised(codec, 6, images=request.param != "text")
    if request.param == "mixed":
        samples = [*supervised(codec, 2, images=False, first=6), *samples, *supervised(codec, 1, images=False, first=8)]
    yield codec, Policy(load_model(path, torch.float32)), samples


def pack_with(codec: Codec, samples: list[TrainingSample], row_tokens: int) -> PackedBatch:
    vision = [codec.encode_images(sample.images) for sample in samples]
    return pack(samples, vision, row_tokens=row_tokens, pad_id=codec.pad_id)


def loss_and_gradient(policy: Policy, batches: list[PackedBatch], num_tokens: float) -> tuple[float, torch.Tensor]:
    policy.zero_grad()
    total = 0.0
    for batch in batches:
        loss = -(policy(batch)[0] * batch.loss_mask_N).sum() / num_tokens
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_packed_equals_unpacked_in_loss_and_gradient(case: tuple[Codec, Policy, list[TrainingSample]]) -> None:
    codec, policy, samples = case
    tokens = loss_tokens(samples)
    longest = max(len(s.prompt_ids) + len(s.token_ids_T) for s in samples)
    packed = pack_with(codec, samples, 3 * longest)
    assert packed.input_ids_BT.shape[0] < len(samples)  # rows are shared, or the test proves nothing
    loss, gradient = loss_and_gradient(policy, [packed], tokens)
    alone, reference = loss_and_gradient(policy, [pack_with(codec, [s], 1) for s in samples], tokens)
    assert loss == pytest.approx(alone, abs=1e-5)
    torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


def test_logprobs_are_those_of_the_models_own_forward(case: tuple[Codec, Policy, list[TrainingSample]]) -> None:
    codec, policy, samples = case
    batch = pack_with(codec, samples, 400)
    with torch.no_grad():
        logprobs_N, entropy_N = policy(batch)
        for i, sample in enumerate(samples):
            ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids_T]])
            logits = policy.model(input_ids=ids, **dict(codec.encode_images(sample.images))).logits[0]
            logp_TV = torch.log_softmax(logits[len(sample.prompt_ids) - 1 : -1], dim=-1)
            expected = logp_TV.gather(-1, torch.tensor(sample.token_ids_T)[:, None]).squeeze(-1)
            own = batch.sample_N == i
            torch.testing.assert_close(logprobs_N[own], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropy_N[own], -(logp_TV.exp() * logp_TV).sum(-1), atol=1e-5, rtol=1e-5)


def test_sequences_of_a_row_do_not_see_each_other(tiny_llava: Path) -> None:
    codec, policy = Codec(tiny_llava), Policy(load_model(tiny_llava, torch.float32))
    first, second, other = supervised(codec, 3)
    with torch.no_grad():
        pair = pack_with(codec, [first, second], 400)
        changed = pack_with(codec, [first, other], 400)
        assert pair.input_ids_BT.shape[0] == changed.input_ids_BT.shape[0] == 1
        torch.testing.assert_close(policy(pair)[0][pair.sample_N == 0], policy(changed)[0][changed.sample_N == 0])


@given(lengths=LENGTHS, row_tokens=st.integers(1, 80))
def test_rows_hold_every_sample_once_and_fit(lengths: list[int], row_tokens: int) -> None:
    rows = plan_rows(lengths, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= row_tokens or len(row) == 1 for row in rows)
    # first fit: at most one row can be half empty
    assert sum(2 * sum(lengths[i] for i in row) < row_tokens for row in rows) <= 1


@given(lengths=LENGTHS, micro_rows=st.integers(1, 5))
def test_micro_batches_hold_every_sample_once_and_repack_into_their_rows(lengths: list[int], micro_rows: int) -> None:
    plan = plan_micro_batches(lengths, row_tokens=64, micro_rows=micro_rows)
    assert sorted(i for part in plan for i in part) == list(range(len(lengths)))
    sizes = [len(plan_rows([lengths[i] for i in part], 64)) for part in plan]
    assert all(0 < size <= micro_rows for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(lengths=LENGTHS, parts=st.integers(1, 4))
def test_shares_are_even_to_one_sample(lengths: list[int], parts: int) -> None:
    shares = split_evenly(lengths, parts)
    assert len(shares) == parts and sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
