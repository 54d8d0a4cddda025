"""Means of token values over a step: overall, and by mode and level.

A token value is a tensor [N] that is 0 where it does not count; what it is divided by is such a
value too, so both add up over micro-batches and ranks as plain sums. Losses give some
(`LossOutput.values`), `decision_values` the rest. A sum is named ``NAME`` over all tokens and
``NAME/LABEL`` over the samples of a label, e.g. ``kl/thinking/easy``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bimode.learner.packing import PackedBatch
from bimode.records import TrainingSample
from bimode.rl.loss import k3
from bimode.rl.rollout_summary import ALL_LEVELS

# Value -> what its sum is divided by. `tokens` are scored ones, `sampled` those of them that the
# policy drew.
DENOMINATORS: dict[str, str] = {
    "nll": "tokens",
    "entropy": "tokens",
    "kl": "tokens",
    "clipped_low": "tokens",
    "clipped_high": "tokens",
    "ratio": "sampled",
    "mismatch": "compared",
    "capped": "sampled",
    "decision_entropy": "decisions",
    "decision_probability": "decisions",
    "decision_advantage": "decisions_scored",
}


def label_of(sample: TrainingSample) -> str:
    """``MODE/LEVEL``, e.g. ``thinking/easy``; the mode alone where no level is known."""
    return f"{sample.mode}/{sample.level}" if sample.level else str(sample.mode)


def decision_values(batch: PackedBatch, logprobs_N: Tensor, entropy_N: Tensor) -> dict[str, Tensor]:
    """Values of the tokens that choose a mode, the first of each response, scored or not; each [N].

    `decision_probability` is the policy's, of the token that stands there: in forced thinking that
    of choosing to think.
    """
    scored_N = batch.first_N & (batch.loss_mask_N > 0)
    return {
        "decisions": batch.first_N,
        "decision_entropy": torch.where(batch.first_N, entropy_N.detach(), 0.0),
        "decision_probability": torch.where(batch.first_N, logprobs_N.detach().exp(), 0.0),
        "decisions_scored": scored_N,
        "decision_advantage": torch.where(scored_N, batch.advantages_N, 0.0),
    }


def engine_values(batch: PackedBatch, logprobs_N: Tensor, version: int) -> dict[str, Tensor]:
    """Engine against learner, each [N]: `mismatch` is k3 of the tokens that the engine drew under
    `version`, the learner's own.

    Zero if both compute the same. The first token of a response is left out: it may be forced, and
    then counts as drawn with whatever probability the algorithm says. Tokens of older versions are
    too: the policy has moved on since.
    """
    behavior_N = batch.behavior_logprobs_N
    compared_N = ~behavior_N.isnan() & ~batch.first_N & (batch.versions_N == version)
    difference_N = torch.where(compared_N, logprobs_N.detach().double() - behavior_N.double(), 0.0)
    return {"compared": compared_N, "mismatch": k3(difference_N)}


def token_sums(
    values: Mapping[str, Tensor], label_N: Tensor, labels: Sequence[str]
) -> dict[str, float]:
    """Sums of every value: ``NAME``, and ``NAME/LABEL`` for each of `labels` that is not empty.

    `label_N` holds each token's index into `labels`; a token with the index ``len(labels)`` counts
    nowhere.
    """
    values_MN = torch.stack([value_N.double() for value_N in values.values()])
    sums_ML = values_MN.new_zeros(len(values), len(labels) + 1).index_add_(1, label_N, values_MN)[
        :, :-1
    ]
    found: dict[str, float] = {}
    for name, sums_L in zip(values, sums_ML.tolist(), strict=True):  # one transfer from the device
        found[name] = sum(sums_L)
        found |= {
            f"{name}/{label}": amount for label, amount in zip(labels, sums_L, strict=True) if label
        }
    return found


def metric_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Overall means from the added sums; a mean over no tokens is left out, and so is any key that
    is no token sum.
    """
    return {
        key: sums[key] / sums[DENOMINATORS[key]]
        for key in sums
        if key in DENOMINATORS and sums.get(DENOMINATORS[key], 0.0) > 0
    }


def means_by_mode(sums: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """``{MODE: {LEVEL: {NAME: mean}}}`` from sums by `label_of`, level ``all`` included."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for key, amount in sums.items():
        name, _, label = key.partition("/")
        mode, _, level = label.partition("/")
        for cell in {(mode, ALL_LEVELS), (mode, level or ALL_LEVELS)} if mode else ():
            cells.setdefault(cell, {}).setdefault(name, 0.0)
            cells[cell][name] += amount
    found: dict[str, dict[str, dict[str, float]]] = {}
    for mode, level in sorted(cells):
        found.setdefault(mode, {})[level] = metric_means(cells[mode, level])
    return found
