"""The reasoning parser on token streams: each mode, streamed as it comes and whole, must say the
same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bimode.modes import Mode
from bimode.renderer import Renderer

pytestmark = pytest.mark.ray  # imports vLLM

CASES = [
    ("long", "look : 3 8 ; 3 + 8 = 11\n</think>\n\n11", "look : 3 8 ; 3 + 8 = 11", "11"),
    ("auto", "\nlook : 3\n</think>\n\n3", "look : 3", "3"),
    ("auto", "\n\n</think>\n\n3", None, "3"),
    ("short", "\n\n3", None, "3"),
    ("short", "3", None, "3"),
    ("long", "look : 3 8", "look : 3 8", None),  # cut off while thinking
    ("auto", "\n\n</think>", None, None),
    ("short", "", None, None),
]


def stream(parser: Any, ids: list[int], tokenizer: Any) -> tuple[str | None, str | None]:
    """What a client would put together from one delta a token."""
    reasoning, content, text = "", "", ""
    for at in range(len(ids)):
        now = tokenizer.decode(ids[: at + 1])
        delta = parser.extract_reasoning_streaming(
            text, now, now[len(text) :], ids[:at], ids[: at + 1], [ids[at]]
        )
        text = now
        if delta is not None:
            assert delta.reasoning or delta.content, "an empty delta was sent"
            reasoning, content = (
                reasoning + (delta.reasoning or ""),
                content + (delta.content or ""),
            )
    return reasoning or None, content or None


@pytest.mark.parametrize(("mode", "text", "reasoning", "content"), CASES)
def test_whole_and_streamed_agree(
    mode: str, text: str, reasoning: str | None, content: str | None, tiny_llava: Path
) -> None:
    from actors.serving.thinking_parser import ThinkingParser

    tokenizer = Renderer(tiny_llava).tokenizer
    parser = ThinkingParser(tokenizer, chat_template_kwargs={"thinking_mode": mode})
    assert parser.extract_reasoning(text, None) == (reasoning, content)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert stream(parser, ids, tokenizer) == (reasoning, content)


def test_a_tag_that_is_spelled_out_is_no_part_of_the_reasoning(tiny_llava: Path) -> None:
    """A model may write the tag as ordinary text, which comes in pieces."""
    from actors.serving.thinking_parser import ThinkingParser

    parser = ThinkingParser(
        Renderer(tiny_llava).tokenizer, chat_template_kwargs={"thinking_mode": "long"}
    )
    for pieces, wanted in (
        (("3 < 4", "</", "thi", "nk", ">", "\n\n", "4"), ("3 < 4", "4")),
        (("3 <", "/", " 4", "</think>4"), ("3 </ 4", "4")),
        (("3", "</th", "ink>", "</think>"), ("3", "</think>")),
    ):
        said, text = ["", ""], ""
        for piece in pieces:
            delta = parser.extract_reasoning_streaming(text, text + piece, piece, [], [], [])
            text += piece
            if delta is not None:
                said = [said[0] + (delta.reasoning or ""), said[1] + (delta.content or "")]
        assert tuple(said) == parser.extract_reasoning(text, None) == wanted


def test_tags_of_earlier_turns_do_not_count_and_reasoning_tokens_are_counted(
    tiny_llava: Path,
) -> None:
    from actors.serving.thinking_parser import ThinkingParser

    renderer = Renderer(tiny_llava)
    earlier = renderer.tokenizer.encode("<think>\n\n</think>\n\n3", add_special_tokens=False)
    auto = ThinkingParser(renderer.tokenizer, chat_template_kwargs={"thinking_mode": "auto"})
    prompt = [*earlier, *renderer.tokens.trigger(Mode.AUTO)]
    assert not auto.is_reasoning_end(prompt)
    response = renderer.tokenizer.encode("\nlook : 3\n</think>\n\n3", add_special_tokens=False)
    assert auto.is_reasoning_end_streaming([*prompt, *response], response[-1:])
    assert auto.count_reasoning_tokens(response) == response.index(renderer.tokens.close)
    assert renderer.tokenizer.decode(auto.extract_content_ids(response)).strip() == "3"
    short = ThinkingParser(renderer.tokenizer, chat_template_kwargs={"thinking_mode": "short"})
    assert short.count_reasoning_tokens(response) == 0


@pytest.mark.parametrize("mode", ["long", "short"])
def test_ids_are_split_where_the_text_is(mode: str, tiny_llava: Path) -> None:
    """A second tag belongs to the answer: at the first, the text is split, and a response judged
    (`bimode.modes`).
    """
    from actors.serving.thinking_parser import ThinkingParser

    tokenizer = Renderer(tiny_llava).tokenizer
    parser = ThinkingParser(tokenizer, chat_template_kwargs={"thinking_mode": mode})
    text = "look : 3\n</think>\n\n3 </think> 4"
    content = tokenizer.decode(
        parser.extract_content_ids(tokenizer.encode(text, add_special_tokens=False))
    )
    assert content.split() == (parser.extract_reasoning(text, None)[1] or "").split()


@pytest.mark.parametrize(("mode", "is_bound"), [("auto", False), ("long", False), ("short", True)])
def test_a_grammar_binds_the_first_token_of_an_answer(
    mode: str, is_bound: bool, tiny_llava: Path
) -> None:
    """In short it bound the second: the choice "no" was answered as "us no"."""
    from types import SimpleNamespace

    from actors.serving.chat_request import ChatRequest
    from actors.serving.thinking_parser import ThinkingParser

    renderer = Renderer(tiny_llava)
    messages = [{"role": "user", "content": "what ?"}]
    prompt = renderer.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, thinking_mode=mode, return_dict=False
    )
    request = ChatRequest(messages=messages)
    parser = SimpleNamespace(reasoning_parser=ThinkingParser(renderer.tokenizer))
    assert request.resolve_reasoning_ended(parser, prompt) is is_bound
    assert request.resolve_reasoning_ended(None, prompt) is None
