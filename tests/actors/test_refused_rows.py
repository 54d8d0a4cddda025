"""A row of a data folder that was made elsewhere is refused by its id where it is encoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.learner.sequences import Tokenize
from actors.rollout.worker import RolloutWorker
from bimode.errors import ConfigError
from bimode.modes import Mode, render_response
from tests.rows import asked, reading_worker

CONTROL = "is one of the model's tokenizer; take it out of the text"


@pytest.fixture(scope="module")
def worker(tiny_llava: Path) -> RolloutWorker:
    return reading_worker(tiny_llava, 64)


@pytest.mark.parametrize(
    ("question", "images", "says"),
    [
        ("what is <|im_end|> ?", (), f"<|im_end|> {CONTROL}"),
        ("<pad>", (), f"<pad> {CONTROL}"),
        ("what ?", (b"GIF89a",), "GIF: no header"),
        ("what ?", (b"%!PS-Adobe",), "begins with b'%!PS-Adobe'"),
    ],
)
def test_a_prompt_that_is_refused_costs_its_own_requests(
    worker: RolloutWorker, question: str, images: tuple[bytes, ...], says: str
) -> None:
    """Its reason is told, and what stands beside it in the lease is generated."""
    worker.begin(0, [asked(question, *images), asked(question, *images)])
    results = worker.advance(0.0)[0]
    assert [(result.completions, result.refused) for result in results] == [((), says)] * 2


@pytest.fixture(scope="module")
def tokenize(tiny_llava: Path) -> Tokenize:
    return Tokenize(tiny_llava, mask_empty_think=False)


def test_a_prompt_whose_row_was_refused_is_not_generated_for(worker: RolloutWorker) -> None:
    """`bimode.inputs.prompt_limits` leaves the reason in it alone; the others are encoded."""
    request = asked("what ?")
    refused = replace(request, prompt=replace(request.prompt, question="", refused="empty_answer"))
    _, found = worker._encode_all([request, refused])
    assert found == {refused.prompt: "empty_answer"}


def row(question: str, response: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return {
        "id": "q-7-thinking",
        "parent_ids": ["q-7"],
        "format": "thinking",
        "prompt": turns[:1],
        "messages": turns,
        "images": [],
        "pass_rate_non_thinking": None,
        "pass_rate_thinking": None,
    }


@pytest.mark.parametrize(
    ("question", "trace", "answer", "says"),
    [
        ("what is <|im_end|> ?", "look : 3", "8", "question = control_token: <|im_end|>"),
        ("what ?", "look : <|im_end|> so 3", "8", "response = control_token: <|im_end|>"),
        ("what ?", "look : 3", "8 <|im_end|>", "response = control_token: <|im_end|>"),
        ("what ?", "look : </think> 3", "8", "response = control_token: </think>"),
    ],
)
def test_annealing_refuses_a_row_by_its_id(
    tokenize: Tokenize, question: str, trace: str, answer: str, says: str
) -> None:
    """A trace with an end of turn in its middle taught the model to stop there."""
    sound = row("what is the number ?", render_response(Mode.THINKING, "look : 3", "8"))
    assert tokenize.sequences([sound]).num_rows == 1
    wrong = row(question, render_response(Mode.THINKING, trace, answer))
    with pytest.raises(ConfigError) as refused:
        tokenize.sequences([sound, wrong])
    assert str(refused.value) == f"row q-7-thinking.{says} {CONTROL}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"messages": []}, "data = bad_schema: messages: no turn"),
        ({"messages": None}, "data = bad_schema: messages: NoneType instead of a list"),
        ({"prompt": []}, "data = empty_question: "),
        ({"parent_ids": None}, "data = bad_schema: parent_ids: NoneType instead of a list"),
        ({"format": None}, "data = bad_schema: format: NoneType instead of text"),
        ({"images": [{"bytes": b"x", "path": ""}]}, "data = marker_mismatch: 0 markers, 1 images"),
        (
            {"pass_rate_non_thinking": 1e9},
            "data = bad_schema: pass_rate_non_thinking: float instead of a number",
        ),
        (
            {"prompt": [{"role": "user", "content": "what \x9b2J ?"}]},
            "data = bad_schema: prompt: content",
        ),
    ],
)
def test_a_row_that_cannot_be_made_a_sequence_is_one_line(
    tokenize: Tokenize, changes: dict[str, Any], says: str
) -> None:
    """Each was a TypeError or IndexError with a stack, somewhere in a worker."""
    sound = row("what is the number ?", render_response(Mode.THINKING, "look : 3", "8"))
    with pytest.raises(ConfigError) as refused:
        tokenize.sequences([sound | changes])
    assert str(refused.value).startswith(f"row q-7-thinking.{says}")
