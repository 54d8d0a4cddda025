"""Auto mode's accuracy and tokens from forced rollouts and probes, by hand."""

from __future__ import annotations

import math

import pytest

from bimode.modes import Mode
from bimode.records import Completion, Prompt, RolloutGroup
from bimode.rl.metrics import ExpectedAuto, expected_auto

DIRECT, THINKS = "\n\n</think>\n\n7", "\nso\n</think>\n\n7"


def completion(prompt: str, mode: Mode, tokens: int, text: str) -> Completion:
    return Completion(
        prompt_id=prompt,
        mode=mode,
        prompt_ids=(1,),
        token_ids_T=(5,) * tokens,
        num_forced=0,
        logprobs_T=(math.nan,) * tokens,
        versions_T=(0,) * tokens,
        text=text,
        finished=True,
        worker="w",
    )


def group(name: str, scored: list[tuple[Mode, int, float, str]]) -> RolloutGroup:
    prompt = Prompt(
        id=name,
        question="?",
        images=(),
        answer="7",
        verifier="exact",
        verifier_args="{}",
        task="t",
        level="easy",
    )
    completions = tuple(completion(name, mode, tokens, text) for mode, tokens, _, text in scored)
    return RolloutGroup(prompt, completions, tuple(reward for _, _, reward, _ in scored))


def test_a_mixture_of_the_modes_by_the_share_that_thinks() -> None:
    forced = [
        (Mode.THINKING, 20, 1.0, THINKS),
        (Mode.THINKING, 30, 1.0, THINKS),
        (Mode.NON_THINKING, 5, 1.0, DIRECT),
        (Mode.NON_THINKING, 5, 0.0, DIRECT),
    ]
    probes = [completion("a", Mode.AUTO, 1, text) for text in ("\n", "\n", "\n", "\n\n")]
    # thinks 3/4: right 3/4 * 1 + 1/4 * 1/2, tokens 3/4 * 25 + 1/4 * 5
    assert expected_auto([group("a", forced)], probes) == ExpectedAuto(0.875, 20.0, 0.75)


def test_prompts_weigh_alike_and_auto_rollouts_count_as_they_are() -> None:
    auto = [(Mode.AUTO, 5, 1.0, DIRECT), (Mode.AUTO, 25, 0.0, THINKS)]
    forced = [(Mode.THINKING, 40, 0.0, THINKS), (Mode.NON_THINKING, 4, 1.0, DIRECT)]
    found = expected_auto(
        [group("a", auto), group("b", forced)], [completion("b", Mode.AUTO, 1, "\n\n")]
    )
    assert found == ExpectedAuto((0.5 + 1.0) / 2, (15 + 4) / 2, (0.5 + 0.0) / 2)


def test_a_group_that_says_nothing_about_auto_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt a: neither"):
        expected_auto([group("a", [(Mode.THINKING, 20, 1.0, THINKS)])], [])
