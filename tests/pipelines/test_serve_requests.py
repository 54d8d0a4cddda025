"""What a request to the endpoint is refused for, and in which words; without a server, since nothing here depends on one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
from typing import Any

import pytest
from fastapi import Request
from PIL import Image
from ray.exceptions import RayTaskError
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError

from actors.refusals import ImageReader, Refused, check_keys, check_place, check_served, make_app, template_keys
from bimode.template import CHAT_TEMPLATE

pytestmark = pytest.mark.ray  # of which it needs no more than the imports: with vLLM they take ten seconds


def read(url: str) -> Image.Image:
    return asyncio.run(ImageReader().fetch_image_async(url))


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture(form: str = "PNG") -> bytes:
    """Noise, which does not compress: a file of several blocks."""
    out = io.BytesIO()
    Image.frombytes("RGB", (60, 60), random.Random(0).randbytes(60 * 60 * 3)).save(out, form)
    return out.getvalue()


def test_a_model_that_is_not_served_is_named_beside_the_one_that_is() -> None:
    check_served("bpo", {"bpo": object()})
    with pytest.raises(Refused) as refused:
        check_served("gpt", {"bpo": object()})
    assert (refused.value.status_code, refused.value.type, refused.value.param) == (404, "NotFoundError", "model")
    assert refused.value.message == "model = gpt: is not served here; use bpo"


def test_a_key_that_the_template_would_ignore_is_named_beside_those_it_knows() -> None:
    known = template_keys(CHAT_TEMPLATE)
    assert known == ["thinking_mode"]
    check_keys({"thinking_mode": "long"}, known)
    check_keys({}, known)
    with pytest.raises(Refused) as refused:
        check_keys({"thinkin": True, "thinking_mode": "long"}, known)
    assert (refused.value.status_code, refused.value.param) == (400, "chat_template_kwargs")
    assert refused.value.message == "chat_template_kwargs = thinkin: no such key; use thinking_mode"


def test_a_template_of_others_has_its_own_keys() -> None:
    template = "{{ bos_token }}{% if enable_thinking %}{{ thinking_mode }}{% endif %}{% for m in messages %}{{ m }}{% endfor %}"
    assert template_keys(template) == ["enable_thinking", "thinking_mode"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (data_url(b"hello"), "cannot identify image file"),
        (data_url(picture()[:3000]), "truncated"),
        ("data:image/png;base64,@", "Non-base64 digit"),
        ("data:image/png,hello", "Only base64"),
        ("data:image/png", "missing ','"),
        ("file:///etc/hostname", "fetches nothing"),
        ("picture.png", "fetches nothing"),
        ("http://127.0.0.1:1/x.png", "image http://127.0.0.1:1/x.png: this server fetches nothing; send"),
    ],
    ids=range(8),
)
def test_an_image_that_cannot_be_read_is_the_clients_mistake(url: str, reason: str) -> None:
    with pytest.raises(VLLMValidationError) as refused:
        read(url)
    line = str(refused.value)
    assert reason in line and line.endswith("send a whole PNG or JPEG as data:image/png;base64,...") and "\n" not in line
    assert len(line) < 300


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_whatever_bytes_are_wrong_it_is_an_image_or_a_refusal(form: str) -> None:
    """Pillow raises five kinds of errors; one that is not foreseen would be a 500 with a stack again."""
    rng, whole, refused = random.Random(0), picture(form), 0
    assert read(data_url(whole)).media.size == (60, 60)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(rng.choice((100, len(data))))] = rng.randrange(256)
        try:
            read(data_url(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])))
        except VLLMValidationError:
            refused += 1
    assert refused > 50


def test_the_body_is_openais_and_says_it_once() -> None:
    app = make_app()

    @app.get("/refused")
    async def refuse(request: Request) -> None:
        check_served("gpt", ["bpo"])

    from fastapi.testclient import TestClient

    answer = TestClient(app).get("/refused")
    message = "model = gpt: is not served here; use bpo"
    assert answer.status_code == 404
    assert json.loads(answer.text) == {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/modells", 404), ("GET", "/v1/chat/completions", 405)])
def test_an_address_that_there_is_not_is_answered_in_the_same_shape(method: str, path: str, status: int) -> None:
    from fastapi.testclient import TestClient

    app = make_app()
    app.post("/v1/chat/completions")(lambda: None)
    answer = TestClient(app).request(method, path)
    said = json.loads(answer.text)["error"]
    assert (answer.status_code, said["code"]) == (status, status)
    assert said["message"].startswith(f"{method} {path}: ") and "POST /v1/chat/completions" in said["message"]


def answered(raised: Exception | None, **sent: Any) -> tuple[int, dict[str, Any]]:
    """Status and error of a POST to an endpoint that takes a chat request and raises `raised`."""
    from fastapi.testclient import TestClient

    app = make_app()

    @app.post("/v1/chat/completions")
    async def chat(body: ChatCompletionRequest) -> None:
        if raised:
            raise raised

    answer = TestClient(app, raise_server_exceptions=False).post("/v1/chat/completions", **sent)
    return answer.status_code, json.loads(answer.text)["error"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"content": b'{"model": "m"}'}, "body: send it with the header Content-Type: application/json"),
        ({"json": {"model": "m", "x": "image" * 9999}}, "body.messages: Field required"),
        ({"content": b'{"model": ', "headers": {"Content-Type": "application/json"}}, "body.10: JSON decode error"),
    ],
)
def test_a_body_that_is_no_request_is_the_clients_mistake_and_not_sent_back(sent: dict[str, Any], says: str) -> None:
    """`curl -d` sends another content type than JSON, of which Ray made a 500."""
    status, error = answered(None, **sent)
    assert status == 400 and error == {"message": says, "type": "BadRequestError", "param": says.partition(":")[0], "code": 400}


@pytest.mark.parametrize(("cause", "status"), [(ValueError("no grammar\nmore"), 500), (VLLMValidationError("no grammar"), 400)])
def test_what_the_engine_raises_is_one_line_without_a_stack(cause: Exception, status: int) -> None:
    stack = 'ray::ServeReplica\n  File "/srv/secret/engine.py", line 1\n'
    raised = RayTaskError("chat", stack, cause).as_instanceof_cause()
    code, error = answered(raised, json={"model": "m", "messages": []})
    name = type(cause).__name__
    assert code == status and error == {"message": f"{name}: no grammar", "type": name, "param": None, "code": status}


def test_a_key_of_the_template_beside_the_messages_is_told_where_it_belongs() -> None:
    """vLLM would ignore it, and the model would choose where it was told to think."""
    known = template_keys(CHAT_TEMPLATE)
    check_place({"top_k": 3}, known)
    with pytest.raises(Refused) as refused:
        check_place({"thinking_mode": "long"}, known)
    assert refused.value.message == 'thinking_mode: belongs in chat_template_kwargs, as {"thinking_mode": ...}'
    body = ChatCompletionRequest(model="m", messages=[], thinking_mode="long")
    assert "thinking_mode" in (body.model_extra or {}), "as vLLM keeps it"
