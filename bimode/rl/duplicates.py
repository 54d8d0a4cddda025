"""Equal responses of a prompt are learnt from once, with their weights added up: the same loss from
fewer tokens.

Direct answers are short, so most of the g rollouts of a question say the same ("B", "7"), and so do
those of a sure policy that thinks. A token that one version drew in two equal responses has one
log-probability, hence one ratio; where its advantage A is the same too,

    w1 l(rho, A) + w2 l(rho, A) = (w1 + w2) l(rho, A)

for any loss l that is linear in the weight, as all of `bimode.rl.loss` are. Token means among the
metrics are then over distinct responses. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bimode.records import TrainingSample


def merge_duplicates(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """`samples` with those of equal prompt, tokens, versions, scored positions, advantages and mode
    merged, in order of first appearance.

    The sum of all weights stays what it was. Behaviour log-probabilities, which an engine under one
    version repeats only to rounding, are averaged.
    """
    equal: dict[object, list[TrainingSample]] = {}
    for s in samples:
        scored_T = tuple(
            a if w > 0 else math.inf for w, a in zip(s.loss_mask_T, s.advantages_T, strict=True)
        )
        equal.setdefault(
            (s.origin, s.mode, s.versions_T, s.prompt_ids, s.token_ids_T, scored_T), []
        ).append(s)
    return [_merged(group) for group in equal.values()]


def _merged(group: Sequence[TrainingSample]) -> TrainingSample:
    first = group[0]
    if len(group) == 1:
        return first
    return replace(
        first,
        loss_mask_T=tuple(math.fsum(w) for w in zip(*(s.loss_mask_T for s in group), strict=True)),
        behavior_logprobs_T=tuple(
            math.fsum(b) / len(group)
            for b in zip(*(s.behavior_logprobs_T for s in group), strict=True)
        ),
    )
