"""Merging equal responses leaves loss and gradient where they were, and keeps apart what differs in
anything that counts.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.rl.credit import merge_duplicates
from bimode.rl.loss import LossInputs, policy_loss

NAN = math.nan


def sample_of(
    tokens: tuple[int, ...],
    advantage: float,
    weights: tuple[float, ...],
    logprobs: tuple[float, ...],
) -> TrainingSample:
    return TrainingSample(
        prompt_ids=(1, 2),
        token_ids_T=tokens,
        loss_mask_T=weights,
        advantages_T=(advantage,) * len(tokens),
        behavior_logprobs_T=logprobs,
        images=(),
        mode=Mode.NON_THINKING,
        origin="q",
        versions_T=(3,) * len(tokens),
    )


RIGHT = sample_of((5, 6, 7), 0.5, (0.0, 0.5, 0.5), (NAN, -1.0, -2.0))
WRONG = sample_of((5, 6, 8), -1.5, (0.0, 0.5, 0.5), (NAN, -1.0, -0.5))


def test_equal_responses_become_one_with_their_weights_added() -> None:
    again = dataclasses.replace(RIGHT, behavior_logprobs_T=(NAN, -1.0, -2.2))
    merged = merge_duplicates([RIGHT, WRONG, again])
    assert [s.token_ids_T for s in merged] == [(5, 6, 7), (5, 6, 8)]
    assert merged[0].loss_mask_T == (0.0, 1.0, 1.0)
    assert merged[0].behavior_logprobs_T[1:] == pytest.approx((-1.0, -2.1))
    assert merged[1] is WRONG


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids_T": (5, 6, 9)},
        {"advantages_T": (0.5, 0.5, 0.4)},
        {"loss_mask_T": (0.5, 0.5, 0.5)},
        {"origin": "other"},
        {"mode": Mode.AUTO},
        {"prompt_ids": (1, 3)},
        {"versions_T": (3, 2, 3)},  # weights landed while it was drawn: its ratio is another
    ],
)
def test_what_differs_stays_apart(change: dict[str, object]) -> None:
    assert len(merge_duplicates([RIGHT, dataclasses.replace(RIGHT, **change)])) == 2


def test_an_advantage_without_weight_tells_nothing_apart() -> None:
    assert (
        len(merge_duplicates([RIGHT, dataclasses.replace(RIGHT, advantages_T=(9.0, 0.5, 0.5))]))
        == 1
    )


def test_loss_and_gradient_stay_what_they_were() -> None:
    """A policy that is a table of logits by position, clipped ratios and a reference: 12 samples of
    2 distinct responses.
    """
    torch.manual_seed(0)
    logits_TV = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    samples = [RIGHT] * 7 + [WRONG] * 5
    merged = merge_duplicates(samples)
    assert len(merged) == 2
    assert (
        sum(map(sum, (s.loss_mask_T for s in merged)))
        == sum(map(sum, (s.loss_mask_T for s in samples)))
        == 12.0
    )

    def loss_of(samples: list[TrainingSample]) -> Tensor:
        logp_TV = torch.log_softmax(logits_TV, -1)
        logprobs_N = torch.cat([logp_TV[range(3), list(s.token_ids_T)] for s in samples])

        def tokens(field: str) -> Tensor:
            return torch.tensor(
                [x for s in samples for x in getattr(s, field)], dtype=torch.float64
            )

        inputs = LossInputs(
            logprobs_N=logprobs_N,
            entropy_N=torch.zeros_like(logprobs_N),
            behavior_logprobs_N=tokens("behavior_logprobs_T"),
            reference_logprobs_N=logprobs_N.detach() - 0.3,
            advantages_N=tokens("advantages_T"),
            loss_mask_N=tokens("loss_mask_T"),
        )
        return policy_loss(0.2, 0.3, 0.1)(inputs, 12.0).loss

    whole, small = loss_of(samples), loss_of(merged)
    torch.testing.assert_close(small, whole)
    (whole_grad,) = torch.autograd.grad(whole, logits_TV)
    (small_grad,) = torch.autograd.grad(small, logits_TV)
    assert whole_grad.abs().max() > 1e-3  # some of the tokens are not clipped
    torch.testing.assert_close(small_grad, whole_grad)
