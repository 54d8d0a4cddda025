"""Which rows a strategy trains on, step by step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimode.errors import StarvedError
from bimode.learner.strategies import (
    STRATEGIES,
    Place,
    formats_of,
    hardness,
    phase_of_steps,
    plan_steps,
)

FORMATS = ["thinking", "non_thinking", "transcription"] * 10
ROWS = [Place(f"q{i // 3}", name) for i, name in enumerate(FORMATS)]


def scored(strategy: str, steps: int) -> list[set[str]]:
    plan = plan_steps(ROWS, strategy, steps=steps, batch_size=12, seed=0)  # type: ignore[arg-type]
    return [{FORMATS[i] for i in row} for row in plan]


def test_each_strategy_reads_the_formats_of_table_3() -> None:
    assert set(map(frozenset, scored("non_r", 6))) == {frozenset({"non_thinking"})}
    assert set(map(frozenset, scored("only_r", 6))) == {frozenset({"thinking"})}
    assert scored("non_r_then_r", 6) == [{"non_thinking"}] * 4 + [{"thinking"}] * 2
    assert set().union(*scored("mixed", 6)) == {"thinking", "non_thinking"}
    transcribe = scored("transcribe_then_direct", 10)
    assert transcribe[:2] == [{"transcription"}] * 2
    assert set().union(*transcribe[2:]) == {"transcription", "non_thinking"}


def test_every_row_once_an_epoch_and_epochs_differ() -> None:
    plan = plan_steps(ROWS, "mixed", steps=10, batch_size=10, seed=3)
    epochs = plan.reshape(5, 20)
    wanted = [i for i, name in enumerate(FORMATS) if name != "transcription"]
    assert all(sorted(epoch) == wanted for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_both_formats_of_a_question_are_read_one_after_the_other() -> None:
    plan = plan_steps(ROWS, "mixed", steps=10, batch_size=10, seed=3)
    for step in plan:
        questions = [ROWS[i].question for i in step]
        assert questions[::2] == questions[1::2] and len(set(questions)) == 5


def test_the_plan_is_a_function_of_the_seed() -> None:
    def plan(seed: int) -> np.ndarray:
        return plan_steps(ROWS, "mixed", steps=4, batch_size=8, seed=seed)

    assert (plan(1) == plan(1)).all() and (plan(1) != plan(2)).any()


@pytest.mark.parametrize(
    ("direct", "think", "wanted"),
    [(1.0, 1.0, 0.0), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0), (0.25, None, 0.75), (None, None, 0.5)],
)
def test_hardness_is_the_mean_failure_of_what_was_measured(
    direct: float | None, think: float | None, wanted: float
) -> None:
    assert hardness(direct, think) == wanted


def test_easy_questions_come_first_once_a_phase_and_stay_shuffled_among_equals() -> None:
    rows = [
        Place(f"q{q}", name, (q % 3) / 2)
        for q in range(12)
        for name in ("non_thinking", "thinking")
    ]

    def plan(seed: int, strategy: str = "mixed") -> list[list[int]]:
        found = plan_steps(rows, strategy, steps=6, batch_size=8, seed=seed, order="easy_first")  # type: ignore[arg-type]
        return found.tolist()  # type: ignore[no-any-return]

    read = [i for step in plan(0) for i in step]
    assert [rows[i].hardness for i in read[:24]] == [0.0] * 8 + [0.5] * 8 + [1.0] * 8 and sorted(
        read[:24]
    ) == list(range(24))
    assert [rows[i].hardness for i in read[24:]] != sorted(rows[i].hardness for i in read[24:]), (
        "from then on shuffled"
    )
    assert sorted(read[24:]) == list(range(24)) and plan(0) != plan(1)
    for phase in (plan(0, "non_r_then_r")[:4], plan(0, "non_r_then_r")[4:]):
        first = [rows[i].hardness for step in phase for i in step][:12]
        assert first == sorted(first), "each phase begins with what is easy"


def test_a_phase_without_rows_starves_with_a_line_that_says_which() -> None:
    with pytest.raises(
        StarvedError, match=r"non_r_then_r: phase 2 trains on thinking rows"
    ) as caught:
        plan_steps(
            [Place(f"q{i}", "non_thinking") for i in range(5)],
            "non_r_then_r",
            steps=6,
            batch_size=2,
            seed=0,
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(StarvedError, match="no rows at all"):
        plan_steps([], "mixed", steps=1, batch_size=1, seed=0)


@given(strategy=st.sampled_from(sorted(STRATEGIES)), steps=st.integers(1, 200))
def test_phases_follow_each_other_and_take_their_share(strategy: str, steps: int) -> None:
    phases = STRATEGIES[strategy]  # type: ignore[index]
    at = phase_of_steps(strategy, steps)  # type: ignore[arg-type]
    assert len(at) == steps and at == sorted(at)
    assert sum(phase.share for phase in phases) == pytest.approx(1.0)
    if steps >= 2 * len(phases):
        assert all(
            abs(Counter(at)[k] - phase.share * steps) <= 1.0 for k, phase in enumerate(phases)
        )
        assert {name for k in set(at) for name in phases[k].formats} == set(formats_of(strategy))  # type: ignore[arg-type]
