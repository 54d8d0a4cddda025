"""A request of chat that is one: whatever has another form than OpenAI's API gives it is a
validation error, and so a 400.

vLLM's own class raises TypeError where a field has another type, and looks at the parts of a
message only on the way to the engine: Ray Serve makes a 500 of both.
"""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ray.llm._internal.serve.core.ingress.utils import (
    _sanitize_chat_completion_request,
)  # what reads the parts, in Ray
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm.exceptions import VLLMClientError

from actors.serving.request_bounds import MAX_COMPLETIONS, check_bounds, wrong
from actors.serving.thinking_parser import ThinkingParser

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
MISTAKES = (TypeError, ValueError, AttributeError, LookupError, RecursionError, VLLMClientError)


class ChatRequest(ChatCompletionRequest):
    """Ray's, which raises nothing but ValidationError, and whose messages are plain lists and
    dicts.
    """

    n: int | None = Field(default=1, le=MAX_COMPLETIONS)

    @model_validator(mode="wrap")
    @classmethod
    def _is_one(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            _look_at(data)
            return _sanitize_chat_completion_request(handler(data))
        except (ValidationError, PydanticCustomError):
            raise
        except MISTAKES as error:
            raise wrong(f"no request of OpenAI's API: {error}") from None

    def resolve_reasoning_ended(self, parser: Any, prompt_token_ids: list[int]) -> bool | None:
        """Whether a grammar binds the first token: where the prompt has closed its think block."""
        reasoning = getattr(parser, "reasoning_parser", None)
        if isinstance(reasoning, ThinkingParser):
            return reasoning.is_closed(prompt_token_ids)
        ended: bool | None = super().resolve_reasoning_ended(parser, prompt_token_ids)
        return ended


def _look_at(data: Any) -> None:
    """Raises PydanticCustomError for what neither Ray nor vLLM have a word for."""
    if not isinstance(data, dict):
        return
    check_bounds(data)
    if "messages" not in data:
        return
    if not isinstance(messages := data["messages"], list):
        raise wrong("messages: give a list of messages")
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong(f'messages.{at}: give an object, e.g. {{"role": "user", "content": "..."}}')
        if message.get("role") not in ROLES:
            raise wrong(f"messages.{at}.role: use one of {', '.join(ROLES)}")
        if not isinstance(content := message.get("content"), str | list | None):
            raise wrong(f"messages.{at}.content: give a text, or a list of parts")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise wrong(
                    f'messages.{at}.content.{index}: give an object with its type, e.g. {{"type":'
                    ' "text", "text": "..."}'
                )
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise wrong(
            "half of a surrogate pair, as \\ud800, is no character; send the text as it is"
        ) from None
