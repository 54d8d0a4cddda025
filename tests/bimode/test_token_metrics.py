"""Token values by hand: what each mode and level hears of them, and that they add up over
micro-batches.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from bimode.learner.packing import PackedBatch, pack
from bimode.modes import Mode
from bimode.records import TrainingSample
from bimode.rl.loss import LossInputs, policy_loss
from bimode.rl.metrics import (
    DENOMINATORS,
    decision_values,
    engine_values,
    label_of,
    means_by_mode,
    metric_means,
    token_sums,
)


def sample(mode: Mode, level: str, mask: tuple[float, ...], advantage: float) -> TrainingSample:
    n = len(mask)
    return TrainingSample(
        (1, 2),
        tuple(range(n)),
        mask,
        (advantage,) * n,
        (math.nan,) * n,
        (),
        mode,
        "",
        (1,) * n,
        level,
    )


SAMPLES = (
    sample(Mode.THINKING, "easy", (0.5, 0.5), 3.0),
    sample(Mode.NON_THINKING, "hard", (0.0, 1.0, 1.0), -1.0),
    sample(Mode.THINKING, "hard", (1.0,), 1.0),
)
LABELS = ("non_thinking/hard", "thinking/easy", "thinking/hard")


def batch_of(samples: tuple[TrainingSample, ...]) -> PackedBatch:
    return pack([[s] for s in samples], [()] * len(samples))


def test_packing_marks_the_first_token_of_every_response() -> None:
    assert batch_of(SAMPLES).first_N.tolist() == [True, False, True, False, False, True]


def test_the_decision_is_read_whether_it_is_scored_or_not() -> None:
    logprobs_N = torch.tensor([0.5, 0.1, 0.25, 0.1, 0.1, 1.0]).log()
    entropy_N = torch.tensor([0.6, 9.0, 0.4, 9.0, 9.0, 0.0])
    batch = batch_of(SAMPLES)
    values = decision_values(batch, logprobs_N, entropy_N)
    label_N = torch.tensor([1, 0, 2])[batch.sample_N]
    found = means_by_mode(token_sums(values, label_N, LABELS))
    assert found["thinking"]["easy"] == pytest.approx(
        {"decision_entropy": 0.6, "decision_probability": 0.5, "decision_advantage": 3.0}
    )
    # over both levels: (.6 + 0) / 2, (.5 + 1) / 2, (3 + 1) / 2
    assert found["thinking"]["all"] == pytest.approx(
        {"decision_entropy": 0.3, "decision_probability": 0.75, "decision_advantage": 2.0}
    )
    # its decision has no weight, so no advantage is told of it
    assert found["non_thinking"]["hard"] == pytest.approx(
        {"decision_entropy": 0.4, "decision_probability": 0.25}
    )


def test_sums_by_hand() -> None:
    values = {
        "tokens": torch.tensor([1.0, 1.0, 0.0, 1.0]),
        "nll": torch.tensor([1.0, 2.0, 0.0, 5.0]),
    }
    sums = token_sums(
        values, torch.tensor([0, 1, 1, 2]), ("thinking/easy", "auto")
    )  # the last token is the filler's
    assert sums == {
        "tokens": 2,
        "tokens/thinking/easy": 1,
        "tokens/auto": 1,
        "nll": 3,
        "nll/thinking/easy": 1,
        "nll/auto": 2,
    }
    assert metric_means(sums) == {"nll": 1.5}
    assert means_by_mode(sums) == {
        "auto": {"all": {"nll": 2.0}},
        "thinking": {"all": {"nll": 1.0}, "easy": {"nll": 1.0}},
    }


def test_a_mean_over_nothing_is_left_out() -> None:
    assert metric_means({"loss": 3.0, "tokens": 2.0, "sampled": 0.0, "kl": 1.0, "ratio": 0.0}) == {
        "kl": 0.5
    }
    assert token_sums({"tokens": torch.ones(2)}, torch.tensor([0, 0]), ()) == {"tokens": 0.0}


def test_a_value_that_is_not_finite_stays_with_its_label() -> None:
    values = {"kl": torch.tensor([math.nan, 2.0, math.inf]), "tokens": torch.ones(3)}
    sums = token_sums(values, torch.tensor([2, 1, 0]), ("auto/easy", "auto/hard"))
    assert (
        sums["kl/auto/hard"] == 2.0 and sums["kl/auto/easy"] == math.inf and sums["kl"] == math.inf
    )


def test_micro_batches_add_up_by_label() -> None:
    """Three micro-batches or one, in float64: the same means; and every value of the loss has its
    denominator.
    """
    torch.manual_seed(0)
    logprobs_N = -torch.rand(6, dtype=torch.float64)
    behavior_N, reference_N = logprobs_N + 0.3 * torch.randn(2, 6, dtype=torch.float64)
    loss = policy_loss(0.1, 0.1, 0.1)
    whole, sums = batch_of(SAMPLES), Counter[str]()
    label_N = torch.tensor([1, 0, 2])[whole.sample_N]

    def values_at(at_N: torch.Tensor) -> dict[str, torch.Tensor]:
        inputs = LossInputs(
            logprobs_N[at_N],
            -logprobs_N[at_N],
            behavior_N[at_N],
            reference_N[at_N],
            whole.advantages_N[at_N].double(),
            whole.loss_mask_N[at_N].double(),
        )
        return loss(inputs, 4.0).values

    for i in range(3):
        at_N = whole.sample_N == i
        sums.update(token_sums(values_at(at_N), label_N[at_N], LABELS))
    expected = token_sums(values_at(whole.sample_N >= 0), label_N, LABELS)
    assert dict(sums) == pytest.approx(expected)
    assert sums["tokens"] == 5 and sums["tokens/non_thinking/hard"] == 2
    names = {key for key in expected if "/" not in key}
    assert names <= set(DENOMINATORS) | set(DENOMINATORS.values())


def test_engine_against_learner_by_hand() -> None:
    """Of the tokens that the engine drew under the learner's version: neither a forced one, nor the
    first, nor an older one.
    """
    scored = replace(
        sample(Mode.THINKING, "", (1.0,) * 5, 1.0),
        behavior_logprobs_T=(-9.0, math.nan, -1.0, -1.0, -1.0),
        versions_T=(3, 3, 2, 3, 3),
    )
    values = engine_values(
        batch_of((scored,)), torch.tensor([-1.0, -1.0, -5.0, -1.0, -1.0 + math.log(2)]), version=3
    )
    assert values["compared"].tolist() == [False, False, False, True, True]
    assert values["mismatch"].tolist() == pytest.approx(
        [0, 0, 0, 0, 1 - math.log(2)], abs=1e-7
    )  # 2 - log 2 - 1
    sums = token_sums(values, torch.zeros(5, dtype=torch.long), ("",))
    assert metric_means(sums) == {"mismatch": pytest.approx((1 - math.log(2)) / 2)}
    untouched = engine_values(batch_of((scored,)), torch.zeros(5), version=4)
    assert metric_means(token_sums(untouched, torch.zeros(5, dtype=torch.long), ("",))) == {}


def test_labels() -> None:
    assert [label_of(s) for s in SAMPLES] == ["thinking/easy", "non_thinking/hard", "thinking/hard"]
    assert label_of(sample(Mode.THINKING, "", (1.0,), 1.0)) == "thinking"
