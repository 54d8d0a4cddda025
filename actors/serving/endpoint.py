"""The endpoint's ingress with what a platform operates it by: health, metrics, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from ray.exceptions import RayError
from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse
from ray.serve.exceptions import RayServeException
from starlette.responses import JSONResponse, Response
from vllm.entrypoints.generate.base.protocol import StreamOptions

from actors.serving.chat_request import ChatRequest
from actors.serving.endpoint_guard import Traffic
from actors.serving.endpoint_metrics import USAGE, EndpointMetrics, RequestWatch
from actors.serving.refusals import ThinkingIngress
from bimode.modes import TEMPLATE_WORDS, Mode

HEALTH_S = 2.0  # for an engine to answer
METRICS_S = 2.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # a mode that the template refuses: a label takes no text of a client
ENDPOINTS = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "health": lambda app: app.get("/health"),
    "metrics": lambda app: app.get("/metrics"),
}


class MonitoredIngress(ThinkingIngress):
    """ThinkingIngress with `/health`, `/metrics`, and a draining that the driver begins."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counters = EndpointMetrics()

    async def begin_drain(self) -> None:
        """Refuse new requests from now on. The driver calls it."""
        self._traffic().begin_drain()

    async def unfinished(self) -> int:
        """Return the number of requests that run or wait. The driver calls it."""
        return self._traffic().running

    async def health(self) -> JSONResponse:
        """200 if the engine answers; 503 while it loads, when it is dead, and during draining."""
        if self._traffic().is_draining:
            return _status("draining", 503)
        checks = [engine.check_health.remote() for engine in self._engines()]
        try:
            await asyncio.wait_for(asyncio.gather(*checks), HEALTH_S)
        except TimeoutError:
            return _status("loading or busy", 503)
        except (RayError, RayServeException):
            return _status("failed", 503)
        return _status("ok", 200)

    async def metrics(self) -> Response:
        """The endpoint's counters, then those of the engine's process, if it answers in time."""
        parts = [self.counters.text(self._traffic())]
        for engine in self._engines():
            try:
                parts.append(await asyncio.wait_for(engine.engine_metrics.remote(), METRICS_S))
            except (TimeoutError, RayError, RayServeException):
                continue
        return Response(b"".join(parts), media_type=METRICS_TYPE)

    def _traffic(self) -> Traffic:
        """What the guard counts, in the application that Ray Serve gives this class."""
        traffic: Traffic = self._asgi_app.state.traffic
        return traffic

    def _engines(self) -> list[Any]:
        return list(self._default_serve_handles.values())

    async def _get_response(
        self, *, body: ChatRequest, call_method: str, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None]:
        """Ray's stream of responses, counted on its way."""
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        adds_usage = bool(body.stream) and not wants_usage
        if adds_usage:  # the only exact count of a stream's tokens
            body.stream_options = StreamOptions(include_usage=True)
        responses = super()._get_response(
            body=body, call_method=call_method, raw_request=raw_request
        )
        with RequestWatch(self.counters, _requested_mode(body)) as watch:
            async for response in responses:
                if isinstance(response, ChatCompletionResponse):
                    watch.see_response(response)
                elif isinstance(response, list):
                    response = _seen(response, watch, adds_usage)
                    if not response:
                        continue
                yield response


def _requested_mode(body: ChatRequest) -> str:
    words = list(TEMPLATE_WORDS.values())
    asked = (body.chat_template_kwargs or {}).get("thinking_mode", TEMPLATE_WORDS[Mode.AUTO])
    return asked if asked in words else OTHER


def _seen(chunks: list[Any], watch: RequestWatch, drops_usage: bool) -> list[Any]:
    """Show `chunks` to `watch`; return them, without the usage where no client asked for it."""
    for chunk in chunks:
        if isinstance(chunk, str):
            watch.see_chunk(chunk)
    if not drops_usage:
        return chunks
    return [chunk for chunk in chunks if not isinstance(chunk, str) or USAGE not in chunk]


def _status(says: str, code: int) -> JSONResponse:
    return JSONResponse({"status": says}, code)
