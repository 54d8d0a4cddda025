"""Alarms on invented histories: those that must ring, at the step they must, and those that must
not.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bimode.modes import Mode
from bimode.rl.monitor import Alarm, CollapseMonitor, StepView, view_of

LEVELS = ("easy", "mid", "hard")
THINKING, DIRECT = (0.95, 0.9, 0.8), (0.93, 0.6, 0.2)  # thinking pays on mid and hard


def margin(step: int) -> float:
    return 0.15


def view(
    step: int,
    rates: tuple[float, ...] = (0.1, 0.6, 0.9),
    thinking: tuple[float, ...] = THINKING,
    direct: tuple[float, ...] = DIRECT,
    entropy: tuple[float, ...] = (0.3, 0.3, 0.3),
) -> StepView:
    accuracies: dict[tuple[Mode, str], float] = {}
    entropies: dict[tuple[Mode, str], float] = {}
    for mode, by_level in ((Mode.THINKING, thinking), (Mode.NON_THINKING, direct)):
        accuracies |= {(mode, level): value for level, value in zip(LEVELS, by_level, strict=True)}
        accuracies[mode, "all"] = sum(by_level) / len(by_level)
        entropies |= {(mode, level): value for level, value in zip(LEVELS, entropy, strict=True)}
    return StepView(step, dict(zip(LEVELS, rates, strict=True)), accuracies, entropies)


def rung(views: list[StepView]) -> list[tuple[int, str, Mode]]:
    watch = CollapseMonitor(margin)
    return [(alarm.step, alarm.kind, alarm.mode) for each in views for alarm in watch.see(each)]


def test_a_good_policy_rings_nothing() -> None:
    assert rung([view(i) for i in range(40)]) == []


def test_always_thinking_rings_at_the_fifth_step_and_once() -> None:
    """Easy questions are answered as well directly (0.93 after 0.95)."""
    history = [view(i) for i in range(3)] + [view(i, rates=(0.99, 1.0, 1.0)) for i in range(3, 20)]
    assert rung(history) == [(7, "choice", Mode.THINKING)]


def test_never_thinking_rings_though_thinking_pays() -> None:
    watch = CollapseMonitor(margin)
    alarms = [alarm for i in range(5) for alarm in watch.see(view(i, rates=(0.0, 0.01, 0.02)))]
    says = (
        "auto mode answers directly on every level, though on hard thinking is right more often by"
        " +0.60"
    )
    assert alarms == [Alarm(4, "choice", Mode.NON_THINKING, says)]


@pytest.mark.parametrize("breaks", [{"rates": (0.7, 1.0, 1.0)}, {"rates": (1.0, 1.0, 0.5)}])
def test_a_step_that_chooses_breaks_the_row(breaks: dict[str, tuple[float, ...]]) -> None:
    """Four steps, one that is no collapse, four more: never five in a row."""
    collapsed = {"rates": (1.0, 1.0, 1.0)}
    assert rung([view(i, **(breaks if i == 4 else collapsed)) for i in range(9)]) == []


def test_always_the_right_mode_is_no_collapse() -> None:
    """Thinking pays everywhere, or nowhere by more than the margin: then one mode for all is the
    right choice.
    """
    assert rung([view(i, rates=(1.0, 1.0, 1.0), direct=(0.5, 0.4, 0.2)) for i in range(20)]) == []
    assert rung([view(i, rates=(0.0, 0.0, 0.0), direct=(0.85, 0.8, 0.7)) for i in range(20)]) == []


def test_an_alarm_that_ended_may_ring_again() -> None:
    rates = [(1.0,) * 3] * 6 + [(0.5,) * 3] * 2 + [(1.0,) * 3] * 6
    found = rung([view(i, rates=r) for i, r in enumerate(rates)])
    assert found == [(4, "choice", Mode.THINKING), (12, "choice", Mode.THINKING)]


def test_one_noisy_step_decides_nothing() -> None:
    """The gap is that of five steps: one in which direct happens to match does not make always
    thinking a collapse.
    """
    pays = {"rates": (1.0, 1.0, 1.0), "direct": (0.5, 0.4, 0.2)}
    assert (
        rung(
            [
                view(i, **(pays | ({"direct": (0.9, 0.9, 0.8)} if i == 10 else {})))
                for i in range(20)
            ]
        )
        == []
    )


def test_a_mode_that_is_forgotten_rings_and_names_itself() -> None:
    """Direct accuracy 0.577, then 0.3: the mean of five falls by 0.055 a step, and by more than 0.2
    with the fourth.
    """
    history = [view(i) for i in range(10)] + [
        view(i, direct=(0.5, 0.3, 0.1)) for i in range(10, 20)
    ]
    assert rung(history) == [(13, "mode", Mode.NON_THINKING)]


def test_a_mode_that_wavers_or_is_slowly_overtaken_does_not_ring() -> None:
    wavering = [
        view(i, thinking=(0.95, 0.9, 0.8) if i % 2 else (0.8, 0.7, 0.55)) for i in range(30)
    ]
    assert rung(wavering) == []
    dipped = [view(i, thinking=(0.2, 0.1, 0.0) if i == 12 else THINKING) for i in range(30)]
    assert rung(dipped) == []


def test_a_hand_of_hard_questions_is_no_collapse() -> None:
    """Direct is right on all easy and no hard questions throughout; what changes is how many of
    each were drawn.
    """
    by_level = {(Mode.NON_THINKING, "easy"): 1.0, (Mode.NON_THINKING, "hard"): 0.0}
    shares = [0.6] * 8 + [0.2] * 8
    assert (
        rung(
            [
                StepView(i, {}, by_level | {(Mode.NON_THINKING, "all"): easy}, {})
                for i, easy in enumerate(shares)
            ]
        )
        == []
    )


def test_a_choice_without_entropy_rings_only_where_it_is_so_everywhere() -> None:
    assert rung([view(0, entropy=(0.009, 0.001, 0.0))]) == [(0, "decision", Mode.AUTO)]
    assert rung([view(0, entropy=(0.009, 0.001, 0.2))]) == []
    assert rung([StepView(0, {}, {}, {})]) == []


def test_without_forced_modes_a_choice_that_is_always_the_same_rings() -> None:
    """GRPO draws auto mode alone: what it no longer tries is never compared."""
    watch = CollapseMonitor(margin)
    collapsed = [
        StepView(
            i, dict(zip(LEVELS, (0.98, 0.97, 0.98), strict=True)), {(Mode.AUTO, "all"): 0.9}, {}
        )
        for i in range(5)
    ]
    says = "auto mode thinks on every level, and nothing is drawn to compare it with"
    assert [a for v in collapsed for a in watch.see(v)] == [Alarm(4, "choice", Mode.THINKING, says)]
    assert (
        rung(
            [StepView(i, dict(zip(LEVELS, (0.2, 0.9, 1.0), strict=True)), {}, {}) for i in range(9)]
        )
        == []
    )


def test_a_collapse_that_sampling_still_blurs_rings() -> None:
    """Sampled, BPO with its decision trained went to 0.94 / 0.92 / 0.94, which is always in greedy
    decoding.
    """
    assert rung([view(i, rates=(0.94, 0.92, 0.94)) for i in range(9)]) == [
        (4, "choice", Mode.THINKING)
    ]
    assert (
        rung([view(i, rates=(0.59, 0.59, 0.63)) for i in range(9)]) == []
    )  # a coin is no collapse
    assert rung([view(i, rates=(0.5, 0.5, 0.5)) for i in range(9)]) == []
    assert rung([view(i, rates=(0.02, 0.02, 0.99)) for i in range(9)]) == []


def test_a_first_token_that_is_on_neither_mode_rings_at_its_level() -> None:
    """HGPO at steps 80, 100 and 149 (tiny-annealed, seed 1): on hard 0.967 + 0.035, 0.004 + 0.011,
    0.001 + 0.004.
    """

    def probabilities(direct: float, thinking: float) -> dict[tuple[Mode, str], float]:
        hard = {(Mode.NON_THINKING, "hard"): direct, (Mode.THINKING, "hard"): thinking}
        others = {(Mode.NON_THINKING, "easy"): 0.98, (Mode.THINKING, "easy"): 0.01}
        return hard | others | {(mode, "all"): 0.2 for mode in (Mode.NON_THINKING, Mode.THINKING)}

    history = [
        StepView(i, {}, {}, {}, probabilities(*each))
        for i, each in enumerate([(0.967, 0.035), (0.004, 0.011), (0.001, 0.004)])
    ]
    watch = CollapseMonitor(margin)
    says = "on hard only 0.01 of the first token's probability is on a mode"
    assert [alarm for each in history for alarm in watch.see(each)] == [
        Alarm(1, "neither", Mode.AUTO, says)
    ]
    mixed = {
        (mode, "mid"): 0.127 for mode in (Mode.NON_THINKING, Mode.THINKING)
    }  # sharp choices, means over distinct responses
    assert rung([StepView(0, {}, {}, {}, mixed)]) == []
    no_levels = {(mode, "all"): 0.001 for mode in (Mode.NON_THINKING, Mode.THINKING)}
    assert rung([StepView(0, {}, {}, {}, no_levels)]) == [(0, "neither", Mode.AUTO)]
    one_mode = StepView(
        0, {}, {}, {}, {(Mode.NON_THINKING, "hard"): 0.1, (Mode.THINKING, "easy"): 0.1}
    )
    assert rung([one_mode]) == [], "where one mode alone was drawn nothing is known of the other"


def test_what_thinking_is_worth_is_the_runs_own_margin() -> None:
    """Thinking pays by 0.2 on every level: worth it at a margin of 0.15, a waste at one of 0.3."""
    history = [
        view(i, rates=(1.0,) * 3, thinking=(0.9, 0.9, 0.9), direct=(0.7, 0.7, 0.7))
        for i in range(5)
    ]
    for least, alarms in ((0.15, 0), (0.3, 1)):
        watch = CollapseMonitor(lambda step, least=least: least)
        assert sum(len(watch.see(each)) for each in history) == alarms


def test_a_level_that_a_step_did_not_draw_is_no_obstacle() -> None:
    views = [StepView(i, {"easy": 1.0}, {(m, "easy"): 0.9 for m in Mode}, {}) for i in range(5)]
    assert rung(views) == [(4, "choice", Mode.THINKING)]


def test_a_view_is_read_from_a_line_of_metrics() -> None:
    line = {
        "step": 3,
        "decision": {"easy": 0.5},
        "modes": {
            "thinking": {"all": {"n": 4, "accuracy": 0.75}, "easy": {"n": 4, "accuracy": 0.75}}
        },
        "learner": {
            "thinking": {
                "easy": {"decision_entropy": 0.25, "decision_probability": 0.9},
                "hard": {"kl": 1.0},
            }
        },
    }
    read = view_of(json.loads(json.dumps(line)))
    assert read == StepView(
        3,
        {"easy": 0.5},
        {(Mode.THINKING, "all"): 0.75, (Mode.THINKING, "easy"): 0.75},
        {(Mode.THINKING, "easy"): 0.25},
        {(Mode.THINKING, "easy"): 0.9},
    )
    assert view_of({"step": 0}) == StepView(0, {}, {}, {})


def test_a_mismatch_rings_where_it_begins() -> None:
    """Engine and learner drift apart in step 2 and agree again in step 4."""
    watch = CollapseMonitor(margin, max_mismatch=0.05)
    views = [
        replace(view(i), mismatch=mismatch)
        for i, mismatch in enumerate((0.0, 0.05, 0.06, None, 0.07, 0.01, float("nan")))
    ]
    alarms = [alarm for each in views for alarm in watch.see(each)]
    assert [(alarm.step, alarm.kind) for alarm in alarms] == [(2, "mismatch"), (6, "mismatch")]
    assert "differ by 0.06 nats" in alarms[0].says
    assert (
        view_of({"step": 3, "mismatch": 0.5}).mismatch == 0.5
        and view_of({"step": 3}).mismatch is None
    )
