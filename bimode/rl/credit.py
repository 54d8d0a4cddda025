"""Credit: rewards of rollout groups in, signed weights of tokens out. The learner does not know the
algorithm.

The loss is a sum over tokens over a denominator (`bimode.rl.loss`). A scored token of a response o
weighs 1 / n(o):

    aggregate  n(o)                         denominator          source
    sequence   |o|                          sum of the weights   GRPO (arXiv 2402.03300, eq. 3)
    token      mean of |o| over the batch   sum of the weights   DAPO (arXiv 2503.14476, eq. 8)
    constant   max_tokens                   number of responses  Dr. GRPO (2503.20783, sect. 3.2)

|o| counts scored tokens. In the middle row the loss is the mean over all tokens of the batch; it is
written so that a decision with a weight w of its own weighs as much as w responses in all three
(ours).

The reward is 1 for a right answer that was finished (R-4B: rule-based); `shaped` adds the overlong
term just before credit is given, so that the accuracy that is logged stays accuracy.

Equal responses of a prompt are trained on once, with their weights added up (`merge_duplicates`,
ours). A token that one version drew in two equal responses has one log-probability, hence one
ratio; where its advantage A is the same too,

    w1 l(rho, A) + w2 l(rho, A) = (w1 + w2) l(rho, A)

for any loss l that is linear in the weight, as all of `bimode.rl.loss` are. Token means among the
metrics are then over distinct responses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bimode import algorithms, plugins
from bimode.algorithms.base import DECISION, Array, TokenCredit, check
from bimode.config.rl import BpoConfig
from bimode.grading.verify import completion_score
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup, TrainingSample

# of a prompt's rollouts stay in each forced mode (CounterRoute), or the modes are not compared
FORCED_FLOOR = 0.15


@dataclass(frozen=True, slots=True)
class CreditedBatch:
    """The samples of one update, and the denominator of the sum of their tokens' losses."""

    samples: tuple[TrainingSample, ...]
    denominator: float


def modes_drawn(config: BpoConfig) -> tuple[tuple[Mode, int], ...]:
    """Return what to draw for each prompt, e.g. ``((Mode.THINKING, 8), (Mode.NON_THINKING, 8))``; 2
    g completions in all.
    """
    algorithm, g = algorithms.load(config.algorithm), config.group_size
    if not algorithm.self_routes:
        return tuple((mode, multiple * g) for mode, multiple in algorithm.draws)
    forced = max(1, round(FORCED_FLOOR * 2 * g), round((1 - config.self_routed) * g))
    counts = ((Mode.THINKING, forced), (Mode.NON_THINKING, forced), (Mode.AUTO, 2 * (g - forced)))
    return tuple((mode, n) for mode, n in counts if n)


def assign(groups: Sequence[RolloutGroup], config: BpoConfig) -> CreditedBatch:
    """Make the samples of an update, group by group in the order of the completions.

    Raises IncompleteGroupError or StaleWeightsError for a group that is not exactly what
    `modes_drawn` asked for.
    """
    credited = [
        (group, completion, credit)
        for group in groups
        for completion, credit in zip(group.completions, _credits(group, config), strict=True)
    ]
    lengths = _lengths([credit for *_, credit in credited], config)
    samples = tuple(_sample(*each, n) for each, n in zip(credited, lengths.tolist(), strict=True))
    weight = sum(sum(s.loss_mask_T) for s in samples)
    return CreditedBatch(samples, float(len(samples)) if config.aggregate == "constant" else weight)


def informative(group: RolloutGroup, config: BpoConfig) -> bool:
    """Whether any token of `group` has both a weight and an advantage. Raises what `assign`
    raises.
    """
    return any(
        ((c.is_scored_T | (c.own_weights_T > 0)) & (c.advantages_T != 0)).any()
        for c in _credits(group, config)
    )


def shuffle_rewards(groups: Sequence[RolloutGroup], seed: int) -> list[RolloutGroup]:
    """Shuffle the rewards of a step across all its completions: the control experiment. An effect
    that survives shuffling is not caused by the reward.
    """
    flat = (
        np.random.default_rng(seed)
        .permutation([r for group in groups for r in group.rewards_G])
        .tolist()
    )
    dealt = iter(flat)
    return [
        dataclasses.replace(g, rewards_G=tuple(next(dealt) for _ in g.rewards_G)) for g in groups
    ]


def _credits(group: RolloutGroup, config: BpoConfig) -> list[TokenCredit]:
    check(group, modes_drawn(config), config.max_staleness)
    return algorithms.load(config.algorithm).credit(group, config.credit_settings)


def _lengths(credits: Sequence[TokenCredit], config: BpoConfig) -> Array:
    """Return n(o) of each completion (table of the module); at least 1."""
    if config.aggregate == "constant":
        return np.full(len(credits), float(config.max_tokens))
    lengths = np.array([credit.is_scored_T.sum() for credit in credits], dtype=np.float64)
    if config.aggregate == "token":
        lengths = np.full_like(lengths, lengths.mean())
    return np.maximum(lengths, 1.0)


def _sample(
    group: RolloutGroup, completion: Completion, credit: TokenCredit, length: float
) -> TrainingSample:
    logprobs_T = np.array(completion.logprobs_T)
    if not np.isnan(credit.decision_logprob):
        logprobs_T[DECISION] = credit.decision_logprob
    return TrainingSample(
        prompt_ids=completion.prompt_ids,
        token_ids_T=completion.token_ids_T,
        loss_mask_T=tuple((credit.is_scored_T / length + credit.own_weights_T).tolist()),
        advantages_T=tuple(credit.advantages_T.tolist()),
        behavior_logprobs_T=tuple(logprobs_T.tolist()),
        images=group.prompt.images,
        mode=completion.mode,
        origin=group.prompt.id,
        versions_T=completion.versions_T,
        level=group.prompt.level,
    )


def merge_duplicates(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """Merge the samples with equal prompt, tokens, versions, scored positions, advantages and mode,
    in order of first appearance.

    The sum of all weights stays what it was. Behavior log-probabilities, which an engine under one
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


def correctness(completion: Completion, prompt: Prompt) -> float:
    """Return 1.0 if the answer is right and the response came to its end, else 0.0 (R-4B: rule-
    based, no length or format term). A verifier of the user may give partial credit.
    """
    return completion_score(completion, prompt)


def overlong(num_tokens: int, max_tokens: int, buffer: float) -> float:
    """Return 0 down to -1, linearly over the last share `buffer` of `max_tokens` (DAPO, arXiv
    2503.14476, eq. 13).
    """
    room = buffer * max_tokens
    return -min(max(num_tokens - (max_tokens - room), 0.0) / room, 1.0) if room else 0.0


def shaped(group: RolloutGroup, config: BpoConfig) -> RolloutGroup:
    """Return `group` with the rewards of the user's own function, if `bpo.reward` names one, and
    the overlong term added. Raises PluginError.
    """
    scores_G = _own_rewards(group, config.reward) if config.reward else group.rewards_G
    rewards_G = tuple(
        reward + overlong(c.num_tokens, config.max_tokens, config.overlong_buffer)
        for c, reward in zip(group.completions, scores_G, strict=True)
    )
    return replace(group, rewards_G=rewards_G)


def _own_rewards(group: RolloutGroup, name: str) -> tuple[float, ...]:
    found = plugins.call("reward", name, group)
    try:
        rewards_G = tuple(map(float, found))
    except (TypeError, ValueError):
        problem = f"returned {found!r}, not a list of numbers"
        raise plugins.PluginError("reward", name, problem) from None
    if len(rewards_G) != len(group.completions) or not all(map(math.isfinite, rewards_G)):
        problem = f"returned {found!r} for {len(group.completions)} completions"
        raise plugins.PluginError("reward", name, f"{problem}: give one finite number for each")
    return rewards_G
