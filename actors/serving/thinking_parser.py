"""What vLLM's API reports as `reasoning` and as `content`, in each `thinking_mode`.

Every prompt of ours ends inside or after a think block (bimode.modes), so a response never opens
one:

    long    trace </think> answer        the prompt gave <think>, newline
    auto    trace </think> answer        the same, or an empty trace: the model answers at once
    short   answer                       the prompt gave the closed block; no tag comes

vLLM's stock parsers do not fit: they call a `short` answer all reasoning, or read another switch of
the template. Importing this module registers the parser as `NAME`; engine processes import it by
`reasoning_parser_plugin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from bimode.modes import TEMPLATE_WORDS, THINK_CLOSE, THINK_OPEN, Mode

NAME = "bimode"
SHORT = TEMPLATE_WORDS[Mode.NON_THINKING]


def split(text: str, answered: bool) -> tuple[str, str]:
    """(reasoning, content) of a response so far; `answered` if the prompt has closed the block.

    White space around the tags belongs to neither.
    """
    trace, close, answer = ("", THINK_CLOSE, text) if answered else text.partition(THINK_CLOSE)
    return trace.strip(), answer.lstrip() if close else ""


def split_so_far(text: str, answered: bool) -> tuple[str, str]:
    """The same of a response that may go on: what its end has of a closing tag waits for the rest,
    since the tag may be spelled out in several tokens. So both parts only ever grow with `text`,
    and streams send differences.
    """
    if not answered and THINK_CLOSE not in text:
        begun = next(
            (n for n in range(len(THINK_CLOSE) - 1, 0, -1) if text.endswith(THINK_CLOSE[:n])), 0
        )
        text = text[: len(text) - begun]
    return split(text, answered)


class ThinkingParser(ReasoningParser):
    """Splits by the template's own switch, which vLLM hands over as `chat_template_kwargs`."""

    def __init__(
        self, tokenizer: Any, chat_template_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.answered = (chat_template_kwargs or {}).get("thinking_mode") == SHORT
        self.open_id, self.close_id = self.vocab[THINK_OPEN], self.vocab[THINK_CLOSE]
        self.streams = False

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """Both parts of a whole response; an absent one is None."""
        reasoning, content = split(model_output, self.answered)
        return reasoning or None, content or None

    def extract_reasoning_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
    ) -> DeltaMessage | None:
        """What both parts have gained since `previous_text`; None while that is nothing."""
        self.streams = True
        old, new = (
            split_so_far(previous_text, self.answered),
            split_so_far(current_text, self.answered),
        )
        reasoning, content = new[0][len(old[0]) :], new[1][len(old[1]) :]
        return (
            DeltaMessage(reasoning=reasoning or None, content=content or None)
            if reasoning or content
            else None
        )

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        """False of every prompt: in `short` too, the white space before the answer is still to be
        dropped.
        """
        return False

    def is_reasoning_end_streaming(
        self, input_ids: Sequence[int], delta_ids: Iterable[int]
    ) -> bool:
        """In the engine: the last think block is closed, a grammar may bind the answer. In a
        stream: never, it splits all.
        """
        return not self.streams and self.is_closed(input_ids)

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        """Ids after the first closing tag of a response, as `split` has its text; all of them in
        `short`.
        """
        if self.answered:
            return list(input_ids)
        return input_ids[input_ids.index(self.close_id) + 1 :] if self.close_id in input_ids else []

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Generated ids before the closing tag, for `usage.completion_tokens_details`."""
        if self.answered:
            return 0
        return (
            list(token_ids).index(self.close_id) if self.close_id in token_ids else len(token_ids)
        )

    def is_closed(self, ids: Sequence[int]) -> bool:
        """Return whether the last think block in `ids` is closed."""
        last = next((i for i in reversed(ids) if i in (self.open_id, self.close_id)), None)
        return last == self.close_id


ReasoningParserManager.register_module(NAME, module=ThinkingParser)
