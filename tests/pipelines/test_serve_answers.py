"""What the endpoint answers to faults: types, bytes, engines, models that load."""

from __future__ import annotations

import asyncio
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard
from vllm.exceptions import GenerationError, VLLMValidationError

from actors.serving.chat_request import ChatRequest
from actors.serving.refusals import (
    Refused,
    ThinkingIngress,
    check_place,
    check_writable,
    make_app,
    template_keys,
)
from bimode.inputs.text import OURS
from bimode.models.template import CHAT_TEMPLATE
from tests.pipelines.test_serve_requests import PICTURE, said_by

pytestmark = (
    pytest.mark.ray
)  # of which it needs no more than the imports: with vLLM they take ten seconds


def answered(raised: Exception | None, **sent: Any) -> tuple[int, dict[str, Any]]:
    """Status and error of a POST to an endpoint that takes a chat request and raises `raised`."""
    from fastapi.testclient import TestClient

    app = make_app()

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest) -> None:
        if raised:
            raise raised

    answer = TestClient(app, raise_server_exceptions=False).post("/v1/chat/completions", **sent)
    return answer.status_code, json.loads(answer.text)["error"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (
            {"content": b'{"model": "m"}'},
            "body: send it with the header Content-Type: application/json",
        ),
        ({"json": {"model": "m", "x": "image" * 9999}}, "body.messages: Field required"),
        (
            {"content": b'{"model": ', "headers": {"Content-Type": "application/json"}},
            "body.10: JSON decode error",
        ),
    ],
)
def test_a_body_that_is_no_request_is_the_clients_mistake_and_not_sent_back(
    sent: dict[str, Any], says: str
) -> None:
    """`curl -d` sends another content type than JSON, of which Ray made a 500."""
    status, error = answered(None, **sent)
    assert status == 400 and error == {
        "message": says,
        "type": "BadRequestError",
        "param": says.partition(":")[0],
        "code": 400,
    }


@pytest.mark.parametrize(
    ("cause", "status"),
    [(ValueError("no grammar\nmore"), 500), (VLLMValidationError("no grammar"), 400)],
)
def test_what_the_engine_raises_is_one_line_without_a_stack(cause: Exception, status: int) -> None:
    stack = 'ray::ServeReplica\n  File "/srv/secret/engine.py", line 1\n'
    raised = RayTaskError("chat", stack, cause).as_instanceof_cause()
    code, error = answered(raised, json={"model": "m", "messages": []})
    name = type(cause).__name__
    assert code == status and error == {
        "message": f"{name}: no grammar",
        "type": name,
        "param": None,
        "code": status,
    }


def test_a_key_of_the_template_beside_the_messages_is_told_where_it_belongs() -> None:
    """vLLM would ignore it, and the model would choose where it was told to think."""
    known = template_keys(CHAT_TEMPLATE)
    check_place({"top_k": 3}, known)
    with pytest.raises(Refused) as refused:
        check_place({"thinking_mode": "long"}, known)
    assert (
        refused.value.message
        == 'thinking_mode: belongs in chat_template_kwargs, as {"thinking_mode": ...}'
    )
    body = ChatRequest(model="m", messages=[], thinking_mode="long")
    assert "thinking_mode" in (body.model_extra or {}), "as vLLM keeps it"


WRONG: dict[str, dict[str, Any]] = {
    "messages: give a list": {"messages": 5},
    "messages: give a list of": {"messages": None},
    "messages.0: give": {"messages": [5]},
    "messages.0.role: use one of developer": {"messages": [{"role": "robot", "content": "x"}]},
    "messages.0.content: give a text": {"messages": said_by({})},
    "messages.0.content: give": {"messages": said_by(5)},
    "messages.0.content.0: give an object": {"messages": said_by([5])},
    "messages.0.content.1: give an object": {"messages": said_by([PICTURE, {"type": 5}])},
    "Validating message `content`": {"messages": said_by([{"type": "text", "text": 5}])},
    "Please ensure `content`": {"messages": said_by([{"type": "robot"}])},
    "'int' object is not iterable": {"messages": [{"role": "assistant", "tool_calls": 5}]},
    "half of a surrogate pair": {"messages": said_by(chr(0xD800))},
    "`tools` must not be an empty array": {"messages": said_by("x"), "tools": []},
    "Stream options can only": {
        "messages": said_by("x"),
        "stream_options": {"include_usage": True},
    },
    "stream: Input should be a valid boolean": {"messages": said_by("x"), "stream": 5},
    "n: Input should be a valid integer": {"messages": said_by("x"), "n": "many"},
    "n: Input should be less than or equal to 128": {"messages": said_by("x"), "n": "16384"},
    "stop: 17 texts; send at most 16": {"messages": said_by("x"), "stop": ["x"] * 17},
}


@pytest.mark.parametrize("says", WRONG)
def test_a_field_of_another_type_is_the_clients_mistake_in_one_line(says: str) -> None:
    """vLLM raises TypeError, or looks only when the request is on its way, and Ray makes a 500 of
    it or says it three times.
    """
    body = json.dumps({"model": "m", **WRONG[says]})
    status, error = answered(None, content=body, headers={"Content-Type": "application/json"})
    line = error["message"]
    assert (status, error["type"], error["code"]) == (400, "BadRequestError", 400)
    assert (
        line.startswith("body")
        and says in line
        and line.count("Message:") == 0
        and "\n" not in line
        and len(line) < 250
    )


@pytest.mark.parametrize(
    "body", [b'{"model": "\xff"}', b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_bytes_that_cannot_be_read_are_answered_in_the_same_shape(body: bytes) -> None:
    status, error = answered(None, content=body, headers={"Content-Type": "application/json"})
    assert status == 400 and error["message"] == "body: There was an error parsing the body"


def test_messages_with_parts_arrive_as_they_were_sent() -> None:
    parts = [{"type": "text", "text": "what is it ?"}, PICTURE]
    body = ChatRequest(model="m", messages=said_by(parts))
    assert body.messages[0]["content"] == parts and pickle.loads(pickle.dumps(body)) == body


def test_what_the_models_tokens_cannot_write_is_a_property_of_the_model() -> None:
    asks = ChatRequest(model="m", messages=said_by("x"), response_format={"type": "json_object"})
    with pytest.raises(Refused) as refused:
        check_writable(asks, GenerationError())
    assert (refused.value.status_code, refused.value.param) == (400, "response_format")
    assert refused.value.message.startswith(
        "response_format: the tokens of this model cannot write what it allows"
    )
    check_writable(asks, ValueError("another fault"))
    check_writable(ChatRequest(model="m", messages=said_by("x")), GenerationError())


def test_a_model_that_is_loading_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.serving.refusals.READY_S", 0.01)
    loaded = asyncio.Event()
    engine = SimpleNamespace(check_health=SimpleNamespace(remote=loaded.wait))
    card = ModelCard(id="bpo", object="model", owned_by="", permission=[], metadata={})

    async def ask() -> list[str]:
        ingress = ThinkingIngress({"bpo": engine}, {"bpo": card}, known_keys=[], controls=OURS)
        for answer in (ingress.models(), ingress.model_data("bpo")):
            with pytest.raises(Refused) as refused:
                await answer
            assert (refused.value.status_code, refused.value.message) == (
                503,
                "model = bpo: is loading; ask again later",
            )
        assert await ingress.model("bpq") is None
        loaded.set()
        return [
            (await ingress.model_data("bpo")).id,
            *(model.id for model in (await ingress.models()).data),
        ]

    assert asyncio.run(ask()) == ["bpo", "bpo"]
