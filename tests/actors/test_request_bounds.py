"""What a chat request may weigh: one that exceeds a bound is refused before a parser sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from actors.serving.request_bounds import check_bounds

STRING = {"type": "string"}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(PydanticCustomError) as refused:
        check_bounds(data)
    return refused.value.message()


def nested(depth: int, value: Any = 0) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"stop": ["x"] * 17}, "stop: 17 texts; send at most 16"),
        ({"messages": [{}] * 8193}, "messages: a list or object of 8193; send at most 8192"),
        ({"messages": [{"content": [{}] * 200_000}]}, "messages: a list or object of 200000"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias: a list or object of 2000"),
        ({"tools": [{"x": [0] * 1000} for _ in range(40)]}, "tools: more than 30000 values"),
        ({"documents": [{"x": [0] * 1000} for _ in range(40)]}, "documents: more than 30000"),
        ({"unknown": nested(32)}, "unknown: lists and objects nest deeper than 32"),
        ({"chat_template_kwargs": {"a": nested(100_000)}}, "chat_template_kwargs: lists and"),
    ],
)
def test_a_request_over_a_bound_is_refused_by_its_key(data: dict[str, Any], says: str) -> None:
    assert refusal(data).startswith(says)


def test_a_request_at_the_bounds_is_accepted() -> None:
    part = {"type": "text", "text": "x" * 10**6}
    check_bounds({"stop": ["x"] * 16, "logit_bias": {str(i): 1 for i in range(1024)}})
    check_bounds({"messages": [{"role": "user", "content": [part] * 4}] * 1024})
    check_bounds({"unknown": nested(31), "stop": "x", "structured_outputs": None})


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (
            {"choice": ["a" * i for i in range(2999)]},
            "structured_outputs: a list or object of 2999",
        ),
        ({"choice": ["a"] * 257}, "structured_outputs.choice: 257 choices; send at most 256"),
        ({"choice": ["a" * 100] * 100}, "structured_outputs: 10412 bytes; send at most 8192"),
        ({"regex": "(.?){1000}"}, "structured_outputs: regex may take any time to apply"),
        ({"regex": "((é)|(\\w))|\\w"}, "structured_outputs: regex may take any time"),
        ({"grammar": 'root ::= root root root | [^a] | ""'}, "structured_outputs: grammar may"),
        ({"structural_tag": "{}"}, "structured_outputs: structural_tag may take any time"),
        (
            {"json": {"items": STRING | {"pattern": "(.?){1000}"}}},
            "structured_outputs: pattern may",
        ),
        ({"json": {"patternProperties": {".?": STRING}}}, "structured_outputs: patternProperties"),
        ({"json": {"type": "integer", "multipleOf": 999983}}, "structured_outputs: multipleOf may"),
        (
            {"json": {"type": "array", "minItems": 2**31}},
            "structured_outputs: minItems = 2147483648",
        ),
        ({"json": {"type": "array", "maxItems": 1e6}}, "structured_outputs: maxItems = 1000000.0"),
        ({"json": {"anyOf": [{"minProperties": 257}]}}, "structured_outputs: minProperties = 257"),
        ({"json": {"x-guidance": {}}}, "structured_outputs: x-guidance may take any time"),
        ({"json": {"enum": ["a" * 60] * 200}}, "structured_outputs: 12"),
    ],
)
def test_a_grammar_whose_cost_has_no_bound_is_refused(grammar: dict[str, Any], says: str) -> None:
    """2,999 choices stopped structured output for all; `(.?){1000}` held every request."""
    assert refusal({"structured_outputs": grammar}).startswith(says)
    if "json" in grammar:
        as_text = {"structured_outputs": {"json": json.dumps(grammar["json"])}}
        assert refusal(as_text).startswith(says[:20])
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": grammar["json"]}}
        assert refusal({"response_format": form}).startswith("response_format: ")


@pytest.mark.parametrize("form", [{"type": "structural_tag", "format": {}}, {"type": "grammar"}])
def test_a_response_format_is_bounded_as_well(form: dict[str, Any]) -> None:
    says = refusal({"response_format": form})
    assert says.startswith(f"response_format: {form['type']} may") and says.endswith("json_schema")


def test_ordinary_grammars_are_accepted() -> None:
    keyed_model = {"properties": {"pattern": STRING, "minItems": STRING, "n": {"maxItems": 256}}}
    for grammar in (
        {"choice": [str(i) for i in range(256)]},
        {"json": keyed_model},
        {"json_object": True},
    ):
        check_bounds({"structured_outputs": grammar})
    check_bounds({"structured_outputs": {"json": json.dumps(keyed_model)}})
    check_bounds({"response_format": {"type": "text"}})
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": keyed_model}}
    check_bounds({"response_format": form})
