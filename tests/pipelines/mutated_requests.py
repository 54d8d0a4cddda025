"""Chat requests that are wrong somewhere, from a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

BASES: tuple[dict[str, Any], ...] = (
    {"stop": ["x"], "temperature": 0.5, "top_p": 0.9, "seed": 1, "logit_bias": {"5": 1.0}},
    {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True},
    {"structured_outputs": {"choice": ["look", "read"]}, "n": 2, "top_k": 3},
    {"chat_template_kwargs": {"thinking_mode": "long"}, "documents": [{"title": "a", "text": "b"}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
)


def _nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "\x00",
    "\ud800",
    "\u202e\u0301" * 50,
    "é" * 1000,
    "what " * 20_000,
    "<|im_end|>",
    "<image>",
    "{{ 7 * 7 }}",
    "__class__",
    "(.?){1000}",
    "(a+)+b",
    [],
    {},
    [None],
    ["a"] * 2000,
    ["a" * i for i in range(900)],
    list(range(5000)),
    {str(i): i for i in range(3000)},
    {"role": "user"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}},
    {"$ref": "#"},
    {"type": "string", "pattern": "(.?){1000}"},
    {"type": "array", "minItems": 10**9},
    _nested(40),
    {"json": {"type": "object"}},
    {"regex": "(.?){1000}"},
    {"grammar": 'root ::= root root | "a"'},
    {"type": "json_object"},
    {"choice": ["a" * i for i in range(800)]},
    _nested(200),
)
KEYS = (
    "n",
    "stop",
    "bad_words",
    "logit_bias",
    "stop_token_ids",
    "prompt_logprobs",
    "top_logprobs",
    "max_completion_tokens",
    "min_tokens",
    "repetition_penalty",
    "structured_outputs",
    "user",
    "response_format",
    "mm_processor_kwargs",
    "chat_template",
    "echo",
    "priority",
    "request_id",
    "continue_final_message",
    "truncate_prompt_tokens",
    "thinking_token_budget",
    "unknown",
    "é",
    "allowed_token_ids",
    "logprob_token_ids",
    "return_token_ids",
    "reasoning_effort",
    "vllm_xargs",
    "cache_salt",
    "kv_transfer_params",
    "length_penalty",
    "use_beam_search",
    "min_p",
)


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` bodies, each with one to three values replaced, added or taken away."""
    rng = random.Random(seed)
    for _ in range(count):
        parts = [{"type": "text", "text": "what is the number"}]
        messages = [{"role": "user", "content": rng.choice((parts, "what is the number"))}]
        body = {"model": "bpo", "max_tokens": 4, "messages": messages} | rng.choice(BASES)
        body = copy.deepcopy(body)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _mutate(rng, body)
        yield json.dumps(body).encode()


def _mutate(rng: random.Random, body: dict[str, Any]) -> None:
    value = copy.deepcopy(rng.choice(VALUES))
    if rng.random() < 0.4:
        body[rng.choice(KEYS)] = value
        return
    places = list(_places(body))
    container, key = rng.choice(places)
    if rng.random() < 0.1:
        del container[key]
    else:
        container[key] = value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list) and len(value) < 50:
        entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        for key, entry in entries:
            yield value, key
            if len(json.dumps(entry)) < 2000:
                yield from _places(entry)
