"""Bounds on a chat request, checked before pydantic, Ray or vLLM look at it.

vLLM compiles grammars in a few threads that it never takes back, and applies them between two
steps of the engine. A grammar without a bound stops every other client, so only kinds whose cost
is bounded are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticCustomError

MAX_DEPTH = 32  # lists and objects inside one another
MAX_ENTRIES = 1024  # of any list or object but `messages`
MAX_MESSAGES = 8192
MAX_VALUES = 30_000  # of all of them together
MAX_COMPLETIONS = 128  # `n`, OpenAI's bound
MAX_STOPS = 16
MAX_CHOICES = 256
MAX_GRAMMAR_BYTES = 8192
UNBOUNDED_KINDS = ("grammar", "regex", "structural_tag")
UNBOUNDED_KEYWORDS = ("multipleOf", "patternProperties", "x-guidance")
MAX_COUNTS = {
    "minItems": 256,
    "maxItems": 256,
    "minProperties": 256,
    "maxProperties": 256,
    "minLength": 100_000,
    "maxLength": 100_000,
}


def wrong(says: str) -> PydanticCustomError:
    """The error that becomes a 400 with the line `says`."""
    return PydanticCustomError("request", "{says}", {"says": says})


def check_bounds(data: dict[str, Any]) -> None:
    """Raise PydanticCustomError, which names the key and the bound, if `data` exceeds one."""
    for key, value in data.items():
        _check_size(key, value)
    stops = data.get("stop")
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        raise wrong(f"stop: {len(stops)} texts; send at most {MAX_STOPS}")
    for key in ("structured_outputs", "response_format"):
        _check_grammar(key, data.get(key))


def _check_size(key: str, value: object) -> None:
    """Breadth first, level by level: it recurses into nothing."""
    level, values = [value], 0
    for _ in range(MAX_DEPTH):
        level = [entry for container in level for entry in _entries(key, container)]
        values += len(level)
        if values > MAX_VALUES:
            raise wrong(f"{key}: more than {MAX_VALUES} values; send fewer")
        if not level:
            return
    raise wrong(f"{key}: lists and objects nest deeper than {MAX_DEPTH}; send a flatter one")


def _entries(key: str, container: object) -> Iterator[object]:
    if not isinstance(container, dict | list):
        return
    most = MAX_MESSAGES if key == "messages" else MAX_ENTRIES
    if len(container) > most:
        raise wrong(f"{key}: a list or object of {len(container)}; send at most {most}")
    yield from container.values() if isinstance(container, dict) else container


def _check_grammar(key: str, asked: object) -> None:
    if not isinstance(asked, dict):
        return
    for kind in UNBOUNDED_KINDS:
        if asked.get(kind) is not None or asked.get("type") == kind:
            fix = "send choice or json" if key == "structured_outputs" else "send json_schema"
            raise wrong(f"{key}: {kind} may take any time to apply, and is not served; {fix}")
    choices = asked.get("choice")
    if isinstance(choices, list) and len(choices) > MAX_CHOICES:
        raise wrong(f"{key}.choice: {len(choices)} choices; send at most {MAX_CHOICES}")
    size = len(json.dumps(asked))
    if size > MAX_GRAMMAR_BYTES:
        raise wrong(f"{key}: {size} bytes; send at most {MAX_GRAMMAR_BYTES}")
    schema = asked.get("json")
    if isinstance(schema, str):
        schema = json.loads(schema)
        _check_size(f"{key}.json", schema)
    _check_schema(key, [asked, schema])


def _check_schema(key: str, level: list[Any]) -> None:
    """Look at every object of a schema that `_check_size` has let through."""
    while level:
        for schema in level:
            if isinstance(schema, dict):
                _check_keywords(key, schema)
        level = [entry for container in level for entry in _entries(key, container)]


def _check_keywords(key: str, schema: dict[str, Any]) -> None:
    for keyword in UNBOUNDED_KEYWORDS:
        is_property = keyword == "multipleOf" and isinstance(schema.get(keyword), dict)
        if keyword in schema and not is_property:
            raise wrong(f"{key}: {keyword} may take any time to apply; leave it out")
    if isinstance(schema.get("pattern"), str):  # of another type it is a property of that name
        raise wrong(f"{key}: pattern may take any time to apply; leave it out, or use enum")
    for keyword, bound in MAX_COUNTS.items():
        count = schema.get(keyword)
        if isinstance(count, int | float) and count > bound:
            raise wrong(f"{key}: {keyword} = {count}; use at most {bound}")
