"""The judge's and the traces' sections: what a recipe may say, and what it may not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bimode.config.traces import JUDGE_PROMPT, JudgeConfig, TraceConfig


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("Is it hard?", "must hold {question}"),
        ('Reply {"verdict": 1}: {question}', "write other braces twice"),
        ("{question} {image}", "write other braces twice"),
        ("{question} {}", "write other braces twice"),
        ("{question.x}", "must hold {question}"),
        ("{question} {", "write other braces twice"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused(prompt: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        JudgeConfig(prompt=prompt)


def test_a_prompt_may_hold_braces_and_leave_the_answer_out() -> None:
    asked = JudgeConfig(prompt='{question} or {{"a": 1}}').template.format(
        question="{why}?", answer="x"
    )
    assert asked == '{why}? or {"a": 1}', "braces of the question stay as they are"
    assert JudgeConfig().template == JUDGE_PROMPT and "{question}" in JUDGE_PROMPT


def test_an_empty_phrase_would_forbid_every_trace() -> None:
    with pytest.raises(ValidationError, match="stands in every trace"):
        TraceConfig(forbidden=("as an AI", " "))
    assert TraceConfig(forbidden=("As an AI",)).forbidden == ("as an ai",)
    assert not TraceConfig().penalized and TraceConfig(alpha=0.5).penalized
