"""What a client of the endpoint is refused, in one line of OpenAI's shape: what is wrong, and what
to send instead.

By itself Ray Serve answers an image that cannot be read with a 500 and a stack, names no model that
it does serve, and says everything three times; vLLM drops what a chat template does not know
without a word.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from PIL.Image import Image
from pydantic import BaseModel
from ray.exceptions import RayTaskError

# no public module has these
from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard, OpenAIHTTPException
from ray.llm._internal.serve.core.ingress.middleware import (
    SetRequestIdMiddleware,
    add_exception_handling_middleware,
)
from ray.llm._internal.serve.observability.metrics.fast_api_metrics import metrics_lifespan
from ray.serve.llm.ingress import OpenAiIngress
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from vllm.exceptions import GenerationError, VLLMClientError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaWithBytes
from vllm.multimodal.media.image import ImageMediaIO
from vllm.renderers.hf import _resolve_chat_template_kwargs  # by it vLLM decides what it drops

from actors.serving import replica_port as replica_port  # closes a port, in each replica
from actors.serving.chat_request import ChatRequest
from actors.serving.error_response import error_response
from bimode.inputs.pictures import PictureError, open_picture, picture_header
from bimode.inputs.text import ControlTokens

GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
)
READY_S = 1.0  # for an engine that is there to say so
# PictureError is a ValueError; RuntimeError is vLLM's for other than base64
UNREADABLE = (ValueError, RuntimeError, VLLMClientError)
LARGE = 1 << 20  # pixels; fewer are decoded in a twentieth of a second
SMALL_DECODES = ThreadPoolExecutor(4, "small-pictures")
LARGE_DECODES = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "large-pictures")


class Refused(OpenAIHTTPException):
    """A mistake of the client; `param` is the key of its request."""

    def __init__(self, status: int, kind: str, param: str, message: str) -> None:
        super().__init__(status, message, kind)
        self.param = param


def check_served(model: str, served: Collection[str]) -> None:
    """Raises Refused unless `model` is served."""
    if model not in served:
        raise Refused(
            404,
            "NotFoundError",
            "model",
            f"model = {model}: is not served here; use {' or '.join(served)}",
        )


def check_keys(given: Collection[str], known: Collection[str]) -> None:
    """Raises Refused if the template would ignore one of the keys `given` in
    `chat_template_kwargs`.
    """
    if wrong := ", ".join(key for key in given if key not in known):
        message = f"chat_template_kwargs = {wrong}: no such key; use {', '.join(known)}"
        raise Refused(400, "BadRequestError", "chat_template_kwargs", message)


def check_place(given: Collection[str], known: Collection[str]) -> None:
    """Raises Refused if a key of the template is among those `given` beside `messages`, where vLLM
    would ignore it.
    """
    for key in known:
        if key in given:
            raise Refused(
                400,
                "BadRequestError",
                key,
                f'{key}: belongs in chat_template_kwargs, as {{"{key}": ...}}',
            )


def check_tools(body: ChatRequest) -> None:
    """Raises Refused if `body` wants a tool called; vLLM would name flags of its own command, which
    `bimode serve` has not.
    """
    if body.tools and body.tool_choice != "none":
        message = 'tools: this server calls none; leave them out, or send "tool_choice": "none"'
        raise Refused(400, "BadRequestError", "tools", message)


def check_decoding(body: ChatRequest) -> None:
    """Raise Refused if `body` wants its pictures decoded in a way of its own, which is ignored."""
    if body.media_io_kwargs:
        message = "media_io_kwargs: pictures are decoded as in training; leave it out"
        raise Refused(400, "BadRequestError", "media_io_kwargs", message)


def check_grammar(body: ChatRequest) -> None:
    """Raise Refused if `body` wants more than a choice, of an engine that would not bound its
    cost.
    """
    grammar, form = body.structured_outputs, body.response_format
    for key, is_free in (
        ("structured_outputs", grammar is None or grammar.choice is not None),
        ("response_format", form is None or form.type == "text"),
    ):
        if not is_free:
            message = (
                f'{key}: this model takes choices only, as structured_outputs = {{"choice": [...]}}'
            )
            raise Refused(400, "BadRequestError", key, message)


def check_text(body: ChatRequest, controls: ControlTokens) -> None:
    """Raise Refused if the tokenizer would read a control token in a text of `body`.

    A quoted ``<|im_end|>`` would end its own turn, and a typed ``<image>`` would take the place of
    a picture. A turn of the assistant may begin with its think block, as the template writes it.
    """
    given = {}
    for at, message in enumerate(body.messages):
        given[f"messages.{at}"] = _token_of(message, controls)
    for key in ("documents", "tools", "chat_template_kwargs"):
        given[key] = _first_token(_texts(getattr(body, key)), controls)
    for key, token in given.items():
        if token:
            message = f"{key}: {token} is a control token of this model, and no text; take it out"
            raise Refused(400, "BadRequestError", key, message)


def _token_of(message: Mapping[str, Any], controls: ControlTokens) -> str:
    content = list(_texts(message.get("content")))
    others = [value for key, value in message.items() if key != "content"]
    if content and message.get("role") == "assistant":
        if token := controls.first_in_turn(content[0]):
            return token
        del content[0]
    return _first_token([*content, *_texts(others)], controls)


def _first_token(texts: Iterable[str], controls: ControlTokens) -> str:
    return next(filter(None, map(controls.first_in, texts)), "")


def _texts(value: object) -> Iterator[str]:
    """Every text of a part of a request that may reach the model."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in ("type", "image_url"):
                yield from _texts(
                    part
                )  # first: a turn may begin with a think block, and a name may not
                yield str(key)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def check_writable(body: ChatRequest, error: BaseException) -> None:
    """Raises Refused if `error` says of the request `body` that no token was left which its grammar
    allows.

    vLLM says no more than "Internal server error": a vocabulary of words, as the tiny model's, may
    lack even a brace.
    """
    for key in ("structured_outputs", "response_format"):
        if type(error) is GenerationError and getattr(body, key) is not None:
            message = (
                f"{key}: the tokens of this model cannot write what it allows; leave it out, or"
                " allow something else"
            )
            raise Refused(400, "BadRequestError", key, message) from None


def template_keys(template: str) -> list[str]:
    """The variables of a chat template that are a client's to set."""
    return sorted(
        key for key in _resolve_chat_template_kwargs(template) - GIVEN if not key.endswith("_token")
    )


def unreadable(url: str, error: BaseException) -> str:
    """One line for an image at `url`, which may be as long as the image."""
    shown = url if len(url) <= 100 else f"{url[:40]}..."
    says = error.detail if isinstance(error, PictureError) else str(error)
    reason = " ".join(says.partition(" (parameter=")[0].split()) or type(error).__name__
    return (
        f"image {shown}: {reason.rstrip('.')}; send a whole PNG or JPEG as"
        " data:image/png;base64,..."
    )


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """The bytes of a picture, whose header is sound."""

    data: bytes
    pixels: int


def _decoded(data: bytes) -> MediaWithBytes[Image]:
    return MediaWithBytes(open_picture(data), data)  # vLLM's caches hash the bytes


class PictureIO(ImageMediaIO):
    """Decodes as every other stage does; vLLM's own differs in formats, 16 bits and bounds."""

    def load_bytes(self, data: bytes) -> MediaWithBytes[Image]:
        """Return the picture with its bytes. Raises PictureError."""
        return _decoded(data)


class EncodedPictureIO(ImageMediaIO):
    """Reads the header of a picture only."""

    def load_bytes(self, data: bytes) -> EncodedPicture:
        """Return what is to be decoded. Raises PictureError."""
        _, width, height = picture_header(data)
        return EncodedPicture(data, width * height)


@MEDIA_CONNECTOR_REGISTRY.register(
    "http"
)  # vLLM's default, which it replaces wherever this module is imported
class ImageReader(MediaConnector):
    """The one place where vLLM makes a picture of a URL.

    Its own takes half of what a file can be broken by for a fault of the server, and fetches from
    wherever it can reach. Large pictures are decoded in threads of their own, at most one for two
    cores: whatever many of them cost, small ones do not wait behind them.
    """

    def fetch_image(self, image_url: str, *, image_mode: str | None = "RGB") -> Image:
        """Return the image at `image_url`, for callers without an event loop."""
        picture: Image = self.load_from_url(image_url, PictureIO())
        return picture

    async def fetch_image_async(self, image_url: str, *, image_mode: str | None = "RGB") -> Image:
        """The image; raises VLLMValidationError, of which vLLM makes a 400, for whatever is wrong
        with it.
        """
        if image_url[:5].lower() != "data:":
            raise VLLMValidationError(
                unreadable(image_url, ValueError("this server fetches nothing"))
            )
        try:
            encoded = await self.load_from_url_async(image_url, EncodedPictureIO())
            threads = LARGE_DECODES if encoded.pixels > LARGE else SMALL_DECODES
            picture: Image = await asyncio.get_running_loop().run_in_executor(
                threads, _decoded, encoded.data
            )
        except UNREADABLE as error:
            raise VLLMValidationError(unreadable(image_url, error)) from error
        return picture


class ThinkingIngress(OpenAiIngress):
    """Ray's ingress, which also looks at the names in a request."""

    def __init__(
        self,
        llm_deployments: dict[str, Any],
        model_cards: dict[str, Any],
        *,
        known_keys: list[str],
        controls: ControlTokens,
        has_grammars: bool = True,
    ) -> None:
        super().__init__(llm_deployments, model_cards)
        self.has_grammars = has_grammars
        self.known_keys, self.controls = known_keys, controls
        self._is_loading = True

    async def _get_model_id(self, model: str | None) -> str:
        """Every request asks for its model here; without a name it is the only one."""
        if model is not None:
            check_served(model, self._model_cards)
        return str(await super()._get_model_id(model))

    async def model(self, model_id: str) -> ModelCard | None:
        """Ray's, of what is listed and of what is asked for by its name: it would answer for a
        model that is still loading.
        """
        if self._is_loading and (engine := self._default_serve_handles.get(model_id)) is not None:
            try:
                await asyncio.wait_for(engine.check_health.remote(), READY_S)
            except TimeoutError:
                message = f"model = {model_id}: is loading; ask again later"
                raise Refused(503, "ServiceUnavailableError", "model", message) from None
            self._is_loading = False
        return await super().model(model_id)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Ray's, after the checks of tools, of the template's keys, and of texts."""
        check_tools(body)
        check_place(body.model_extra or {}, self.known_keys)
        check_keys(body.chat_template_kwargs or {}, self.known_keys)
        check_decoding(body)
        if not self.has_grammars:
            check_grammar(body)
        check_text(body, self.controls)
        try:
            return await super().chat(body, request)
        except RayTaskError as error:
            check_writable(body, error.cause)
            raise


def make_app() -> FastAPI:
    """Return Ray's application without its pages and its CORS; a refusal by Ray or vLLM is said
    once.
    """
    app = FastAPI(lifespan=metrics_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    add_exception_handling_middleware(app)
    app.add_middleware(SetRequestIdMiddleware)
    app.add_exception_handler(OpenAIHTTPException, _say)
    app.add_exception_handler(RequestValidationError, _say_invalid)
    app.add_exception_handler(RayTaskError, _say_failed)
    app.add_exception_handler(VLLMClientError, _say_client)
    app.add_exception_handler(400, _say_unread)
    for status in (404, 405):
        app.add_exception_handler(status, _say_where)
    return app


async def _say(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OpenAIHTTPException)
    return error_response(
        error.message, error.type, getattr(error, "param", None), error.status_code
    )


async def _say_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body that is no request. Ray's own sends all of it back, and fails at one that came without
    a content type.
    """
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    is_untyped = isinstance(first.get("input"), bytes)
    says = "send it with the header Content-Type: application/json" if is_untyped else first["msg"]
    return error_response(f"{where}: {says}", "BadRequestError", where, 400)


async def _say_failed(request: Request, error: Exception) -> JSONResponse:
    """What the engine raised, for which Ray would send its stack, with the paths of this
    machine.
    """
    assert isinstance(error, RayTaskError)
    cause = error.cause
    status = 400 if isinstance(cause, VLLMClientError) else int(getattr(cause, "status_code", 500))
    line = next(iter(str(cause).strip().splitlines()), "")
    logging.getLogger("ray.serve").error("request failed", exc_info=error)
    return error_response(f"{type(cause).__name__}: {line}", type(cause).__name__, None, status)


async def _say_client(request: Request, error: Exception) -> JSONResponse:
    """What vLLM refuses while it reads the body of another address than chat's."""
    return error_response(str(error), "BadRequestError", None, 400)


async def _say_unread(request: Request, error: Exception) -> JSONResponse:
    """Bytes that are no UTF-8, and lists in lists in lists: FastAPI answers in a shape of its
    own.
    """
    assert isinstance(error, HTTPException)
    return error_response(f"body: {error.detail}", "BadRequestError", "body", 400)


async def _say_where(request: Request, error: Exception) -> JSONResponse:
    """An address or a method that there is not, which Starlette would answer in a shape of its
    own.
    """
    assert isinstance(error, HTTPException)
    message = (
        f"{request.method} {request.url.path}: {error.detail}; use GET /v1/models or POST"
        " /v1/chat/completions"
    )
    return error_response(message, "NotFoundError", None, error.status_code)
