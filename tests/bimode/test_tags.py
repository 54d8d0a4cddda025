"""The tag rules: numbers worked out by hand, the table of the docstring, and properties that must
hold for all counts.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bimode.config.curate import TagConfig
from data_curation.tagging.tags import assign_tag, can_think, correct_for_guessing, enough_attempts

DEFAULT, R4B = TagConfig(), TagConfig(rule="r4b")
BLIND = 1 / 23
counts = st.integers(1, 64).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))
)
guesses = st.floats(0.0, 0.6)


def mode(
    k: int,
    think: int = 0,
    *,
    n: int = 8,
    guess: float = BLIND,
    thinks: bool = False,
    config: TagConfig = DEFAULT,
) -> str:
    return assign_tag(k, think, n, guess, thinks, config).mode


def test_guessing_by_hand() -> None:
    assert correct_for_guessing(0.625, 0.25) == 0.5
    assert correct_for_guessing(0.25, 0.25) == correct_for_guessing(0.1, 0.25) == 0.0
    assert correct_for_guessing(1.0, 0.25) == 1.0


def test_the_table_of_the_docstring() -> None:
    assert [mode(k)[0] for k in range(9)] == list("ttttteenn")
    tags = [assign_tag(k, 0, 8, BLIND, False, DEFAULT) for k in range(9)]
    assert [round(t.interval[0], 2) for t in tags] == [
        0.0,
        0.0,
        0.04,
        0.12,
        0.21,
        0.32,
        0.44,
        0.57,
        0.74,
    ]
    assert [round(t.interval[1], 2) for t in tags] == [
        0.22,
        0.38,
        0.52,
        0.64,
        0.74,
        0.83,
        0.91,
        0.97,
        1.0,
    ]


def test_the_same_counts_mean_less_where_guessing_is_easy() -> None:
    assert mode(7, guess=0.0) == "non_thinking"
    assert mode(7, guess=0.25) == "either"
    assert {mode(k, guess=0.5) for k in range(9)} == {
        "thinking",
        "either",
    }  # a coin may be right 8 times


def test_thinking_that_does_not_help_is_not_taught_unless_the_model_cannot_think() -> None:
    assert assign_tag(2, 2, 8, BLIND, True, DEFAULT).reason == "thinking_no_better"
    assert mode(2, 2, thinks=True) == mode(0, 0, thinks=True) == "either"
    assert mode(2, 3, thinks=True) == "thinking"
    assert mode(2, 0, thinks=False) == "thinking"
    assert mode(8, 8, thinks=True) == "non_thinking"


def test_a_model_thinks_if_it_is_surely_better_than_blind() -> None:
    assert not can_think(0, 4800, BLIND, 0.9)
    assert not can_think(209, 4800, BLIND, 0.9)  # 1/23 of 4800
    assert can_think(300, 4800, BLIND, 0.9)
    assert not can_think(0, 0, 0.0, 0.9)


def test_r4b_asks_only_whether_all_direct_attempts_failed() -> None:
    assert [mode(k, 8, config=R4B, thinks=True) for k in range(9)] == ["thinking"] + [
        "non_thinking"
    ] * 8
    assert assign_tag(0, 0, 8, BLIND, False, R4B).reason == "r4b_all_failed"


@given(counts, guesses, st.booleans())
def test_a_decided_tag_is_as_sure_as_asked_for(
    c: tuple[int, int, int], guess: float, thinks: bool
) -> None:
    tag = assign_tag(*c, guess, thinks, DEFAULT)
    assert (
        0.0
        <= tag.interval[0]
        <= correct_for_guessing(c[0] / c[2], guess) + 1e-9
        <= tag.interval[1] + 2e-9
    )
    assert 0.0 <= tag.confidence <= 1.0
    if tag.mode != "either":
        assert tag.confidence >= (1 + DEFAULT.confidence) / 2 - 1e-9


@given(counts, guesses)
def test_more_right_direct_answers_never_ask_for_more_thinking(
    c: tuple[int, int, int], guess: float
) -> None:
    k, think, n = c
    order = {"thinking": 0, "either": 1, "non_thinking": 2}
    if k < n:
        for thinks in (False, True):
            assert (
                order[mode(k, think, n=n, guess=guess, thinks=thinks)]
                <= order[mode(k + 1, think, n=n, guess=guess, thinks=thinks)]
            )


@given(counts, guesses)
def test_thinking_counts_matter_only_to_a_model_that_thinks(
    c: tuple[int, int, int], guess: float
) -> None:
    k, think, n = c
    assert mode(k, think, n=n, guess=guess) == mode(k, 0, n=n, guess=guess)


def test_what_is_guessed_easily_needs_more_attempts() -> None:
    """Wilson's lower bound of n of n at 90 %, n / (n + 1.645 ** 2), corrected for g: above
    non_thinking_poor = 0.5 at these n.
    """
    assert [enough_attempts(g, TagConfig()) for g in (0.0, 1 / 4, 1 / 2)] == [3, 5, 9]
    assert enough_attempts(1 / 2, TagConfig(rule="r4b")) == 1
