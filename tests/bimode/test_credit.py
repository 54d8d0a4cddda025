"""Credit against arithmetic by hand, and the properties that tell the algorithms apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bimode.algorithms.per_mode import DECISION_WEIGHT
from bimode.bpo_config import BpoConfig
from bimode.credit import assign, modes_drawn, shuffle_rewards
from bimode.credit.groups import group_advantages
from bimode.credit.summary import summarize
from bimode.errors import IncompleteGroupError, StaleWeightsError
from bimode.losses import LossInputs, policy_loss
from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup, TrainingSample

NAN = math.nan
THINK, DIRECT, CLOSE, WORD, END = 10, 11, 12, 13, 14
FORCED = {Mode.THINKING: (THINK,), Mode.NON_THINKING: (DIRECT, CLOSE), Mode.AUTO: ()}
TEXTS = {Mode.THINKING: "\nso\n</think>\n\n7", Mode.NON_THINKING: "\n\n</think>\n\n7", Mode.AUTO: "\n\n</think>\n\n7"}


def completion(mode: Mode, generated: int, version: int = 3) -> Completion:
    """`generated` tokens after the forced ones, the last of them END."""
    forced = FORCED[mode]
    token_ids = (*forced, *[WORD] * (generated - 1), END)
    return Completion(
        prompt_id="q", mode=mode, prompt_ids=(1, 2), token_ids_T=token_ids, num_forced=len(forced),
        logprobs_T=(*[NAN] * len(forced), *[-0.5] * generated), versions_T=(version,) * len(token_ids),
        text=TEXTS[mode], finished=True, worker="w0",
    )  # fmt: skip


def group(completions: Sequence[Completion], rewards: Sequence[float], level: str = "easy") -> RolloutGroup:
    prompt = Prompt(
        id="q", question="?", images=(b"png",), answer="7", verifier="exact", verifier_args="{}", task="t", level=level
    )
    return RolloutGroup(prompt=prompt, completions=tuple(completions), rewards_G=tuple(rewards))


def paired(thinking: Sequence[float], direct: Sequence[float], length: int = 4) -> RolloutGroup:
    """One group: thinking rollouts of `length` generated tokens, direct ones of 2, with these rewards."""
    modes = [Mode.THINKING] * len(thinking) + [Mode.NON_THINKING] * len(direct)
    return group([completion(m, length if m is Mode.THINKING else 2) for m in modes], [*thinking, *direct])


def config(algorithm: str = "bpo", decision: str = "masked", g: int = 2, **values: float) -> BpoConfig:
    return BpoConfig(algorithm=algorithm, decision=decision, group_size=g, **values)


BI_MODE = [
    ("bpo", "masked"),
    ("bpo", "trained"),
    ("per_mode", "masked"),
    ("per_mode", "trained"),
    ("per_mode", "counterfactual"),
    ("per_mode", "preferred"),
]


def test_group_advantage_by_hand() -> None:
    # (1, 0, 0, 1): mean .5, sample variance 4 * .25 / 3, std .577350; (+-.5) / (.577350 + .0001)
    # (2, 0, 1, 1): mean 1, sample variance 2 / 3, std .816497
    advantages_PG = group_advantages(np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 1.0]]))
    a, b = 0.5 / (math.sqrt(1 / 3) + 1e-4), 1 / (math.sqrt(2 / 3) + 1e-4)
    np.testing.assert_allclose(advantages_PG, [[a, -a, -a, a], [b, -b, 0, 0]], rtol=1e-12)
    assert a == pytest.approx(0.865875, abs=1e-6)


@given(st.floats(-1e3, 1e3), st.integers(1, 16))
def test_equal_rewards_teach_exactly_nothing(reward: float, size: int) -> None:
    assert not group_advantages(np.full((1, size), reward)).any()


@pytest.mark.parametrize(("algorithm", "decision"), [c for c in BI_MODE if c[1] not in ("counterfactual", "preferred")])
def test_equal_rewards_give_zero_advantage(algorithm: str, decision: str) -> None:
    samples = assign([paired([0.1] * 3, [0.1] * 3)], config(algorithm, decision, g=3)).samples
    assert all(a == 0.0 for s in samples for a in s.advantages_T)


def test_bpo_masked_is_equation_1_by_hand() -> None:
    """Rewards (1, 1), (1, 0): joint mean 3/4, sample std sqrt((3/16 + 9/16) / 3) = 1/2; right .25/.5, wrong -.75/.5."""
    samples = assign([paired([1, 1], [1, 0], length=4)], config("bpo", "masked")).samples
    right, wrong = 0.25 / 0.5001, -0.75 / 0.5001
    thinking, _, direct_right, direct_wrong = samples
    assert thinking.token_ids_T == (THINK, WORD, WORD, WORD, END)
    assert thinking.loss_mask_T == (0.0, 0.25, 0.25, 0.25, 0.25)
    assert thinking.advantages_T == pytest.approx((0.0, *[right] * 4))
    assert direct_right.token_ids_T == (DIRECT, CLOSE, WORD, END)
    assert direct_right.loss_mask_T == (0.0, 0.0, 0.5, 0.5)
    assert direct_right.advantages_T == pytest.approx((0.0, 0.0, right, right))
    assert direct_wrong.advantages_T == pytest.approx((0.0, 0.0, wrong, wrong))
    # 1/(2g) sum_k 1/|o_k| sum_t: at ratio 1 the objective is the mean advantage of the sequences, here 0
    assert loss_of(samples)[0] == pytest.approx(0.0, abs=1e-12)
    assert sum(sum(s.loss_mask_T) for s in samples) == pytest.approx(4)


def test_bpo_trained_makes_the_decision_the_first_response_token() -> None:
    samples = assign([paired([1, 1], [1, 0], length=4)], config("bpo", "trained")).samples
    assert samples[0].loss_mask_T == pytest.approx([0.2] * 5)
    assert samples[3].loss_mask_T == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 3])  # the forced </think> stays out
    assert samples[3].advantages_T[0] == pytest.approx(-0.75 / 0.5001)
    assert math.isnan(samples[3].behavior_logprobs_T[0])


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=16, max_size=16))
def test_bpo_mean_mode_advantage(rewards: list[float]) -> None:
    """Mean advantage of the thinking half = (p_T - p_N) / (2 std): no routing signal where the modes tie."""
    samples = assign([paired(rewards[:8], rewards[8:])], config("bpo", "trained", g=8)).samples
    mean_T = np.mean([s.advantages_T[0] for s in samples[:8]])
    mean_N = np.mean([s.advantages_T[0] for s in samples[8:]])
    p_T, p_N = np.mean(rewards[:8]), np.mean(rewards[8:])
    mu = (p_T + p_N) / 2
    std = math.sqrt(mu * (1 - mu) * 16 / 15)  # sample std of 16 coin flips
    assert mean_T == pytest.approx((p_T - p_N) / (2 * (std + 1e-4)), abs=1e-12)
    assert mean_N == pytest.approx(-mean_T, abs=1e-12)


def test_joint_group_drags_the_weaker_mode_down_and_per_mode_does_not() -> None:
    """What the joint group costs the weaker mode: one right direct answer among thinking ones gets next to nothing."""
    rewards = paired([1, 1, 1, 1], [1, 0, 0, 0])
    joint = assign([rewards], config("bpo", "masked", g=4)).samples
    apart = assign([rewards], config("per_mode", "counterfactual", g=4)).samples
    # joint: mean 5/8, sample std sqrt((5 * 9/64 + 3 * 25/64) / 7) = .517549; its own mode: mean 1/4, std 1/2
    assert joint[4].advantages_T[-1] == pytest.approx(0.375 / 0.517649, abs=1e-6)
    assert apart[4].advantages_T[-1] == pytest.approx(0.75 / 0.5001)
    assert sum(s.advantages_T[-1] for s in joint[4:]) < -2
    assert sum(s.advantages_T[-1] for s in apart[4:]) == pytest.approx(0, abs=1e-12)


def test_per_mode_by_hand() -> None:
    """Thinking (1, 1), direct (1, 0), margin .1: delta = 1 - .5 - .1 = .4, decision +-4 tanh(.4) = +-1.519796."""
    samples = assign([paired([1, 1], [1, 0])], config("per_mode", "counterfactual", margin=0.1)).samples
    a = 0.5 / (math.sqrt(0.5) + 1e-4)  # (1, 0): mean .5, sample std sqrt(.5)
    assert samples[0].advantages_T == pytest.approx((1.519796, 0, 0, 0, 0), abs=1e-6)
    assert samples[2].advantages_T == pytest.approx((-1.519796, 0, a, a), abs=1e-6)
    assert samples[3].advantages_T == pytest.approx((-1.519796, 0, -a, -a), abs=1e-6)
    assert samples[0].loss_mask_T == pytest.approx((DECISION_WEIGHT, *[0.25] * 4))
    assert samples[2].loss_mask_T == pytest.approx((DECISION_WEIGHT, 0.0, 0.5, 0.5))


def test_preferred_scores_the_decision_of_the_better_mode_alone() -> None:
    """Thinking (1, 1), direct (1, 0), margin .1: push 4 tanh(.4) = 1.519796 for thinking; with margin .6, -.398672."""
    samples = assign([paired([1, 1], [1, 0])], config("per_mode", "preferred", margin=0.1)).samples
    assert [s.advantages_T[0] for s in samples] == pytest.approx([1.519796, 1.519796, 0, 0], abs=1e-6)
    assert [s.loss_mask_T[0] for s in samples] == [2 * DECISION_WEIGHT, 2 * DECISION_WEIGHT, 0, 0]
    samples = assign([paired([1, 1], [1, 0])], config("per_mode", "preferred", margin=0.6)).samples
    assert [s.advantages_T[0] for s in samples] == pytest.approx([0, 0, 0.398672, 0.398672], abs=1e-6)
    assert samples[2].token_ids_T[1] == CLOSE, "the trigger's </think> belongs to the decision"
    assert samples[2].advantages_T[1] == samples[2].advantages_T[0]
    assert samples[2].loss_mask_T == (2 * DECISION_WEIGHT, 2 * DECISION_WEIGHT, 0.5, 0.5)


def test_margin_sends_ties_to_the_direct_mode() -> None:
    for rewards in (paired([1, 1], [1, 1]), paired([0, 0], [0, 0])):
        samples = assign([rewards], config("per_mode", "counterfactual", margin=0.15)).samples
        assert samples[0].advantages_T[0] == pytest.approx(-4 * math.tanh(0.15))
        assert samples[2].advantages_T[0] == pytest.approx(4 * math.tanh(0.15))
    (first, *_) = assign([paired([1, 1], [1, 1])], config("per_mode", "counterfactual", margin=0.0)).samples
    assert first.advantages_T[0] == 0.0


def test_decision_credit_does_not_depend_on_length() -> None:
    short, long = (assign([paired([1, 0], [0, 0], length=n)], config("per_mode", "counterfactual")).samples[0] for n in (3, 300))
    assert short.loss_mask_T[0] * short.advantages_T[0] == long.loss_mask_T[0] * long.advantages_T[0]


def test_grpo_scores_every_generated_token() -> None:
    completions = [completion(Mode.AUTO, n) for n in (2, 4, 5, 5)]
    samples = assign([group(completions, [1, 0, 0, 0])], config("grpo", "trained")).samples
    # (1, 0, 0, 0): mean 1/4, sample std sqrt((9/16 + 3/16) / 3) = 1/2
    assert samples[0].advantages_T == pytest.approx([0.75 / 0.5001] * 2)
    assert samples[1].loss_mask_T == pytest.approx([0.25] * 4)
    masked = assign([group(completions, [1, 0, 0, 0])], config("grpo", "masked")).samples
    assert masked[1].loss_mask_T == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])


def loss_of(
    samples: Sequence[TrainingSample], logits_NV: torch.Tensor | None = None, reference_N: torch.Tensor | None = None
) -> tuple[float, np.ndarray]:
    """Policy loss of `samples` under free logits, and its gradient on them [N, V]; the policy is its own reference."""
    tokens = [t for s in samples for t in s.token_ids_T]
    logits_NV = torch.zeros(len(tokens), 20, dtype=torch.float64) if logits_NV is None else logits_NV
    logits_NV = logits_NV.clone().requires_grad_()
    logprobs_N = torch.log_softmax(logits_NV, -1)[torch.arange(len(tokens)), torch.tensor(tokens)]
    behavior_N = torch.tensor([b for s in samples for b in s.behavior_logprobs_T], dtype=torch.float64)
    behavior_N = torch.where(behavior_N.isnan(), behavior_N, logprobs_N.detach())  # on policy
    weights_N = torch.tensor([w for s in samples for w in s.loss_mask_T], dtype=torch.float64)
    advantages_N = torch.tensor([a for s in samples for a in s.advantages_T], dtype=torch.float64)
    reference_N = logprobs_N.detach() if reference_N is None else reference_N
    entropy_N = torch.zeros_like(logprobs_N)
    inputs = LossInputs(logprobs_N, entropy_N, behavior_N, reference_N, advantages_N, weights_N)
    loss = policy_loss(0.2, 0.2, 0.01)(inputs, weights_N.sum().item()).loss
    loss.backward()
    return loss.item(), logits_NV.grad.numpy()


@pytest.mark.parametrize(("algorithm", "decision"), BI_MODE)
def test_which_tokens_get_a_gradient(algorithm: str, decision: str) -> None:
    """Masked: exactly none on the decision. Others: some. The forced ``</think>``: in `preferred` only, with it."""
    samples = assign([paired([1, 0], [1, 0]), paired([1, 1], [1, 0])], config(algorithm, decision, margin=0.2)).samples
    grad_NV = loss_of(samples)[1]
    start = 0
    for sample in samples:
        rows = grad_NV[start : start + len(sample.token_ids_T)]
        start += len(rows)
        if decision == "masked":
            assert not rows[0].any()
        elif sample.advantages_T[0]:
            assert rows[0].any()
        if sample.mode is Mode.NON_THINKING:
            assert sample.token_ids_T[1] == CLOSE
            assert rows[1].any() == (decision == "preferred" and rows[0].any())
    decisions = [s.advantages_T[0] for s in samples]
    assert any(decisions) == (decision != "masked")


def push_on_think(p: float, samples: Sequence[TrainingSample], reference: float | None = None) -> float:
    """d loss / d log-odds of thinking, decisions only, where the policy thinks with `p`, the reference `reference`."""
    fields = ("token_ids_T", "loss_mask_T", "advantages_T", "behavior_logprobs_T")
    decisions = [replace(s, **{f: getattr(s, f)[:1] for f in fields}) for s in samples]
    logits_NV = torch.full((len(decisions), 20), -1e9, dtype=torch.float64)
    logits_NV[:, THINK], logits_NV[:, DIRECT] = math.log(p), math.log(1 - p)
    reference_N = None
    if reference is not None:
        odds = {Mode.THINKING: reference, Mode.NON_THINKING: 1 - reference}
        reference_N = torch.tensor([math.log(odds[s.mode]) for s in decisions], dtype=torch.float64)
    grad_NV = loss_of(decisions, logits_NV, reference_N)[1]
    assert grad_NV[:, THINK].sum() == pytest.approx(-grad_NV[:, DIRECT].sum())
    return float(grad_NV[:, THINK].sum())


@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_push_on_the_decision_does_not_fade(p: float) -> None:
    """d loss / d log-odds = -s tanh(delta) / 2 a unit of decision weight, wherever the policy stands."""
    samples = assign([paired([1, 1], [0, 0])], config("per_mode", "counterfactual", margin=0.2)).samples
    assert push_on_think(p, samples) == pytest.approx(-4 * math.tanh(0.8) / 2)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_preferred_fades_where_the_choice_is_made(p: float) -> None:
    """d loss / d log-odds = -s tanh(delta) (1 - p) a unit of decision weight: cross-entropy to the better mode."""
    samples = assign([paired([1, 1], [0, 0])], config("per_mode", "preferred", margin=0.2)).samples
    assert push_on_think(p, samples) == pytest.approx(-4 * math.tanh(0.8) * (1 - p))


def test_kl_ends_the_push_before_a_mode_dies() -> None:
    """A tie, margin .15, kl .01, pi_ref = 1/2: at rest where pi_ref / p = 1 + 4 tanh(.15) / .01 = 60.6, p = .0083."""
    samples = assign([paired([1, 1], [1, 1])], config("per_mode", "counterfactual", margin=0.15)).samples
    rest = 0.5 / (1 + 4 * math.tanh(0.15) / 0.01)
    assert push_on_think(1.05 * rest, samples, reference=0.5) > 0  # still pushed down
    assert push_on_think(0.95 * rest, samples, reference=0.5) < 0  # and back up


def test_samples_carry_what_the_records_hold() -> None:
    (first, *_) = assign([paired([1, 0], [0, 0])], config()).samples
    assert (first.prompt_ids, first.images, first.mode, first.origin, first.version) == (
        (1, 2), (b"png",), Mode.THINKING, "q", 3,
    )  # fmt: skip
    assert first.behavior_logprobs_T[1:] == (-0.5,) * 4


@pytest.mark.parametrize("algorithm", ["bpo", "grpo", "per_mode"])
def test_groups_that_are_not_as_drawn_are_refused(algorithm: str) -> None:
    wanted = config(algorithm)
    modes = [mode for mode, n in modes_drawn(wanted) for _ in range(n)]
    completions = [completion(mode, 3) for mode in modes]
    assert len(assign([group(completions, [1, 0, 0, 1])], wanted).samples) == 4
    other = completion(Mode.AUTO if algorithm != "grpo" else Mode.THINKING, 3)
    bad = {
        "a completion short": group(completions[1:], [0, 0, 1]),
        "one too many": group([*completions, completions[0]], [1, 0, 0, 1, 1]),
        "another mode besides": group([*completions, other], [1, 0, 0, 1, 1]),
        "one swapped": group([other, *completions[1:]], [1, 0, 0, 1]),
        "a reward short": group(completions, [1, 0, 0]),
        "a reward that is no number": group(completions, [1, 0, 0, NAN]),
    }
    for case, broken in bad.items():
        with pytest.raises(IncompleteGroupError):
            pytest.fail(f"{case} was accepted") if assign([broken], wanted) else None


def test_mixed_versions_are_refused() -> None:
    completions = [*paired([1, 0], [0]).completions, completion(Mode.NON_THINKING, 2, version=4)]
    with pytest.raises(StaleWeightsError, match=r"\[3, 4\]"):
        assign([group(completions, [1, 0, 0, 0])], config())


def test_modes_drawn() -> None:
    both = ((Mode.THINKING, 8), (Mode.NON_THINKING, 8))
    assert modes_drawn(config("bpo", g=8)) == modes_drawn(config("per_mode", g=8)) == both
    assert modes_drawn(config("grpo", g=8)) == ((Mode.AUTO, 16),)


def test_shuffled_rewards_are_the_same_rewards() -> None:
    groups = [paired([1] * 8, [0] * 8), paired([0.5] * 8, [0] * 8)]
    shuffled = shuffle_rewards(groups, seed=7)
    assert sorted(r for g in shuffled for r in g.rewards_G) == sorted(r for g in groups for r in g.rewards_G)
    assert shuffled != groups and shuffled == shuffle_rewards(groups, seed=7) != shuffle_rewards(groups, seed=8)
    assert [g.completions for g in shuffled] == [g.completions for g in groups]
    assert any(0.5 in g.rewards_G for g in shuffled[:1])  # across prompts, not only within


def test_summary() -> None:
    easy, hard = paired([1, 1], [1, 0]), paired([1, 0], [0, 0])
    hard = replace(hard, prompt=replace(hard.prompt, level="hard"))
    summary = summarize([easy, hard])
    line = json.loads(json.dumps(summary.to_json()))
    assert line["versions"] == [3] and line["groups"] == 2
    assert line["flat_groups"] == 0.5  # easy thinking and hard direct, of four
    assert line["modes"]["thinking"]["all"] == pytest.approx(
        {"n": 4, "reward": 0.75, "accuracy": 0.75, "tokens": 5, "think_rate": 1.0, "finished": 1.0}
    )
    assert line["modes"]["non_thinking"]["easy"]["accuracy"] == 0.5
    assert line["modes"]["non_thinking"]["hard"] == pytest.approx(
        {"n": 2, "reward": 0.0, "accuracy": 0.0, "tokens": 4, "think_rate": 0.0, "finished": 1.0}
    )
    assert set(line["modes"]) == {"thinking", "non_thinking"}
