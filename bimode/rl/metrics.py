"""The metrics of a step: its rollouts by mode and level, and the token means of its update.

What auto mode would score is estimated without extra generation (ours):

    accuracy = mean over prompts of  p right(thinking) + (1 - p) right(non-thinking)
    p        = share of the probes that think

and tokens alike. The two modes of a prompt are drawn under the same policy as its probes, so both
are unbiased at the rollouts' temperature. Rollouts drawn in auto mode are counted as they are.

A token value is a tensor [N] that is 0 where it does not count; its divisor is such a value too, so
both add up over micro-batches and ranks as plain sums. Losses give some (`LossOutput.values`),
`decision_values` the rest. A sum is named ``NAME`` over all tokens and ``NAME/LABEL`` over the
samples of a label, e.g. ``kl/thinking/easy``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from bimode.learner.packing import PackedBatch
from bimode.modes import Mode, decides_direct, parse_response
from bimode.records import Completion, RolloutGroup, TrainingSample
from bimode.rl.loss import k3

ALL_LEVELS = "all"


@dataclass(frozen=True, slots=True)
class ModeMeans:
    """Means over the `n` completions of one mode and level. `accuracy` is the share with a reward
    of at least 1.
    """

    n: int
    reward: float
    accuracy: float
    tokens: float
    think_rate: float
    finished: float


@dataclass(frozen=True, slots=True)
class StepSummary:
    """`flat_groups` is the share of groups, taken by mode, whose rewards are all equal: no lesson
    within the mode.

    `means` is keyed by (mode, level), level ``all`` included.
    """

    versions: tuple[int, ...]
    groups: int
    flat_groups: float
    means: dict[tuple[Mode, str], ModeMeans]

    def to_json(self) -> dict[str, object]:
        """``{"versions", "groups", "flat_groups", "modes": {MODE: {LEVEL: {"n", "reward",
        ...}}}}``.
        """
        modes: dict[str, dict[str, object]] = {}
        for (mode, level), means in self.means.items():
            modes.setdefault(mode.value, {})[level] = asdict(means)
        return {
            "versions": list(self.versions),
            "groups": self.groups,
            "flat_groups": self.flat_groups,
            "modes": modes,
        }


def summarize(groups: Sequence[RolloutGroup]) -> StepSummary:
    """Summarize a step. Call it before the rewards are shuffled, or the accuracies are those of the
    control.
    """
    cells: dict[tuple[Mode, str], list[tuple[Completion, float]]] = {}
    rewards: list[list[float]] = []
    for group in groups:
        scored = list(zip(group.completions, group.rewards_G, strict=True))
        for mode in Mode:
            here = [(c, r) for c, r in scored if c.mode is mode]
            if not here:
                continue
            rewards.append([r for _, r in here])
            for level in (ALL_LEVELS, group.prompt.level):
                cells.setdefault((mode, level), []).extend(here)
    return StepSummary(
        versions=tuple(sorted({v for g in groups for c in g.completions for v in c.versions_T})),
        groups=len(groups),
        flat_groups=sum(len(set(r)) == 1 for r in rewards) / max(len(rewards), 1),
        means={key: _means(cells[key]) for key in sorted(cells)},
    )


def _means(cell: Sequence[tuple[Completion, float]]) -> ModeMeans:
    rewards_N = np.array([r for _, r in cell])
    return ModeMeans(
        n=len(cell),
        reward=float(rewards_N.mean()),
        accuracy=float((rewards_N >= 1.0).mean()),
        tokens=float(np.mean([c.num_tokens for c, _ in cell])),
        think_rate=float(np.mean([parse_response(c.text).is_thinking for c, _ in cell])),
        finished=float(np.mean([c.finished for c, _ in cell])),
    )


@dataclass(frozen=True, slots=True)
class ExpectedAuto:
    """Means over the prompts of a step: `accuracy` and `think_rate` in [0, 1], `tokens` after
    ``<think>``.
    """

    accuracy: float
    tokens: float
    think_rate: float


def expected_auto(groups: Sequence[RolloutGroup], probes: Sequence[Completion]) -> ExpectedAuto:
    """Estimate auto mode at this step. `probes` are bare decisions in auto mode, any number a
    prompt; rewards are 0/1 verdicts.

    Raises ValueError for a group that holds neither auto rollouts nor both forced modes with a
    probe.
    """
    thinks: dict[str, list[float]] = {}
    for probe in probes:
        thinks.setdefault(probe.prompt_id, []).append(float(not decides_direct(probe.text)))
    rows = [_of_group(group, thinks.get(group.prompt.id, [])) for group in groups]
    return ExpectedAuto(*np.mean(rows, axis=0).tolist())


def _of_group(group: RolloutGroup, thinks: list[float]) -> tuple[float, float, float]:
    by_mode = {
        mode: np.mean([(r >= 1.0, c.num_tokens) for c, r in pairs], axis=0)
        for mode in Mode
        if (
            pairs := [
                (c, r)
                for c, r in zip(group.completions, group.rewards_G, strict=True)
                if c.mode is mode
            ]
        )
    }
    if thinks and {Mode.THINKING, Mode.NON_THINKING} <= by_mode.keys():
        share = float(np.mean(thinks))
        right, tokens = share * by_mode[Mode.THINKING] + (1 - share) * by_mode[Mode.NON_THINKING]
        return right, tokens, share
    if Mode.AUTO not in by_mode:
        raise ValueError(
            f"prompt {group.prompt.id}: neither auto rollouts nor both modes and a probe"
        )
    chosen = [float(not decides_direct(c.text)) for c in group.of(Mode.AUTO)]
    return by_mode[Mode.AUTO][0], by_mode[Mode.AUTO][1], float(np.mean(chosen))


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
    """Return ``MODE/LEVEL``, e.g. ``thinking/easy``; the mode alone if no level is known."""
    return f"{sample.mode}/{sample.level}" if sample.level else str(sample.mode)


def decision_values(batch: PackedBatch, logprobs_N: Tensor, entropy_N: Tensor) -> dict[str, Tensor]:
    """Return values of the tokens that choose a mode, the first of each response, scored or not;
    each [N].

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
    """Compare engine and learner, each [N]: `mismatch` is k3 of the tokens that the engine drew
    under `version`, the learner's own. `mismatch` is k3 of the tokens that the engine drew under
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
    """Sum every value: ``NAME``, and ``NAME/LABEL`` for each of `labels` that is not empty.
    ``NAME``, and ``NAME/LABEL`` for each of `labels` that is not empty.

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
    """Return overall means of the added sums, without means over no tokens and without keys that
    are no token sum.
    """
    return {
        key: sums[key] / sums[DENOMINATORS[key]]
        for key in sums
        if key in DENOMINATORS and sums.get(DENOMINATORS[key], 0.0) > 0
    }


def means_by_mode(sums: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{MODE: {LEVEL: {NAME: mean}}}`` from sums by `label_of`, level ``all`` included."""
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
