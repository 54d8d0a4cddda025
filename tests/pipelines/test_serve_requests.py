"""What a request to the endpoint is refused for, and in which words; without a server, since
nothing here depends on one.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from fastapi import Request
from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.parse import MultiModalDataParser

from actors.serving.chat_request import ChatRequest
from actors.serving.refusals import (
    ImageReader,
    Refused,
    check_decoding,
    check_keys,
    check_served,
    check_text,
    check_tools,
    make_app,
    template_keys,
)
from bimode.inputs.pictures import open_picture
from bimode.inputs.text import OURS, ControlTokens
from bimode.models.template import CHAT_TEMPLATE
from tests.pictures import BLUE, KINDS, RED, Kind, encoded, halves

pytestmark = (
    pytest.mark.ray
)  # of which it needs no more than the imports: with vLLM they take ten seconds


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
    assert (refused.value.status_code, refused.value.type, refused.value.param) == (
        404,
        "NotFoundError",
        "model",
    )
    assert refused.value.message == "model = gpt: is not served here; use bpo"


def test_tools_are_refused_without_flags_that_this_server_has_not() -> None:
    """vLLM names --enable-auto-tool-choice."""
    asks = {"model": "bpo", "messages": [{"role": "user", "content": "hi"}]}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    check_tools(ChatRequest(**asks))
    check_tools(ChatRequest(**asks, tools=tools, tool_choice="none"))
    for choice in ({}, {"tool_choice": "required"}):
        with pytest.raises(Refused, match="tools: this server calls none; leave them out"):
            check_tools(ChatRequest(**asks, tools=tools, **choice))


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
    template = (
        "{{ bos_token }}{% if enable_thinking %}{{ thinking_mode }}{% endif %}{% for m in messages"
        " %}{{ m }}{% endfor %}"
    )
    assert template_keys(template) == ["enable_thinking", "thinking_mode"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (data_url(b"hello"), "begins with b'hello'"),
        (data_url(picture()[:3000]), "truncated"),
        ("data:image/png;base64,@", "Non-base64 digit"),
        ("data:image/png,hello", "Only base64"),
        ("data:image/png", "missing ','"),
        ("file:///etc/hostname", "fetches nothing"),
        ("picture.png", "fetches nothing"),
        (
            "http://127.0.0.1:1/x.png",
            "image http://127.0.0.1:1/x.png: this server fetches nothing; send",
        ),
    ],
    ids=range(8),
)
def test_an_image_that_cannot_be_read_is_the_clients_mistake(url: str, reason: str) -> None:
    with pytest.raises(VLLMValidationError) as refused:
        read(url)
    line = str(refused.value)
    assert (
        reason in line
        and line.endswith("send a whole PNG or JPEG as data:image/png;base64,...")
        and "\n" not in line
    )
    assert len(line) < 300


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_whatever_bytes_are_wrong_it_is_an_image_or_a_refusal(form: str) -> None:
    """Pillow raises five kinds of errors; one that is not foreseen would be a 500 with a stack
    again.
    """
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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_endpoint_and_the_engine_see_a_picture_as_every_other_stage(kind: Kind) -> None:
    """vLLM's own loader took 16 bits for white, and turned what training had not."""
    served = read(data_url(kind.data)).media
    assert (served.mode, served.size) == ("RGB", kind.size)
    assert {at: served.getpixel(at) for at in kind.pixels} == kind.pixels
    parsed = MultiModalDataParser().parse_mm_data({"image": [open_picture(kind.data)]})
    assert np.array_equal(np.asarray(parsed["image"].get(0)), np.asarray(served))


def test_what_curation_rejects_the_endpoint_refuses() -> None:
    animated = encoded(halves(RED, BLUE), "GIF", save_all=True, append_images=[halves(BLUE, RED)])
    for data, says in (
        (b"%!PS-Adobe-3.0 EPSF-3.0", "begins with b'%!PS"),
        (animated, "a GIF of several frames"),
        (encoded(Image.new("1", (4097, 9)), "PNG"), "4097 x 9 pixels"),
        (encoded(Image.new("1", (13000, 13000)), "PNG"), "13000 x 13000 pixels"),
    ):
        with pytest.raises(VLLMValidationError, match="image data:") as refused:
            read(data_url(data))
        assert says in str(refused.value)


def said_by(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
CONTROLS = ControlTokens((*OURS.names, "<pad>", "<|endoftext|>"))


@pytest.mark.parametrize("token", CONTROLS.names)
@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_a_text_with_a_control_token_is_refused_by_its_name(role: str, token: str) -> None:
    """It ended the turn that it stood in, and a typed <image> took the place of the picture."""
    for content in (f"what is {token} ?", [PICTURE, {"type": "text", "text": token}]):
        turn = {"role": role, "content": content, "tool_call_id": "1"}
        sent = [{"role": "user", "content": "what ?"}, turn]
        with pytest.raises(Refused) as refused:
            check_text(ChatRequest(model="m", messages=sent), CONTROLS)
        assert (refused.value.status_code, refused.value.param) == (400, "messages.1")
        says = f"messages.1: {token} is a control token of this model, and no text; take it out"
        assert refused.value.message == says


@pytest.mark.parametrize(
    ("content", "token"),
    [
        ("<think>\nlook : 3\n</think>\n\n3", ""),
        ("<think>\nlook : 3", ""),
        ([{"type": "text", "text": "<think>\n\n</think>\n\n3"}], ""),
        ("3", ""),
        (None, ""),
        ("3 <think>", "<think>"),
        ("<think>\n</think>3 <|im_end|>", "<|im_end|>"),
        ([{"type": "text", "text": "3"}, {"type": "text", "text": "<think></think>3"}], "<think>"),
    ],
)
def test_an_earlier_turn_may_begin_with_its_think_block(content: Any, token: str) -> None:
    """So the template writes it, and a response that is continued begins so."""
    turns = [{"role": "user", "content": "what ?"}, {"role": "assistant", "content": content}]
    body = ChatRequest(model="m", messages=turns)
    if not token:
        check_text(body, CONTROLS)
        return
    with pytest.raises(Refused, match=f"messages.1: {re.escape(token)} is a control token"):
        check_text(body, CONTROLS)


def test_tools_and_names_are_text_too() -> None:
    """vLLM hands tools to the template, and a template may write the names of a document's
    fields.
    """
    asked = [{"role": "user", "content": "what ?"}]
    tool = {"type": "function", "function": {"name": "f", "description": "ends a turn: <|im_end|>"}}
    for given in ({"tools": [tool], "tool_choice": "none"}, {"documents": [{"<|im_end|>": "x"}]}):
        with pytest.raises(Refused, match=r"<\|im_end\|> is a control token"):
            check_text(ChatRequest(model="m", messages=asked, **given), CONTROLS)


def test_other_texts_of_a_request_are_text_too() -> None:
    asked = [{"role": "user", "content": "what ?"}]
    for key, value in (
        ("documents", [{"title": "a", "text": "b <pad>"}]),
        ("chat_template_kwargs", {"thinking_mode": "<pad>"}),
        ("messages", [{"role": "user", "content": "what ?", "name": "<pad>"}]),
    ):
        with pytest.raises(Refused, match=f"{key}.*<pad> is a control token"):
            check_text(ChatRequest(**{"model": "m", "messages": asked, key: value}), CONTROLS)


def test_pictures_are_not_decoded_in_a_way_of_a_clients_own() -> None:
    own = {"image": {"rgba_background_color": [0, 0, 0]}}
    check_decoding(ChatRequest(model="m", messages=said_by("what ?")))
    with pytest.raises(Refused, match="media_io_kwargs: pictures are decoded as in training"):
        check_decoding(ChatRequest(model="m", messages=said_by("what ?"), media_io_kwargs=own))


def test_ordinary_text_and_pictures_are_let_through() -> None:
    shown = {"type": "image_url", "image_url": {"url": data_url(KINDS["rgba png"].data)}}
    parts = [shown, {"type": "text", "text": "a <image of x> | <b>"}]
    for content in (parts, "is 3 < 4 | <s> ?"):
        check_text(ChatRequest(model="m", messages=said_by(content)), CONTROLS)


def test_the_body_is_openais_and_says_it_once() -> None:
    app = make_app()

    @app.get("/refused")
    async def refuse(request: Request) -> None:
        check_served("gpt", ["bpo"])

    from fastapi.testclient import TestClient

    answer = TestClient(app).get("/refused")
    message = "model = gpt: is not served here; use bpo"
    assert answer.status_code == 404
    assert json.loads(answer.text) == {
        "error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/modells", 404), ("GET", "/v1/chat/completions", 405)],
)
def test_an_address_that_there_is_not_is_answered_in_the_same_shape(
    method: str, path: str, status: int
) -> None:
    from fastapi.testclient import TestClient

    app = make_app()
    app.post("/v1/chat/completions")(lambda: None)
    answer = TestClient(app).request(method, path)
    said = json.loads(answer.text)["error"]
    assert (answer.status_code, said["code"]) == (status, status)
    assert (
        said["message"].startswith(f"{method} {path}: ")
        and "POST /v1/chat/completions" in said["message"]
    )
