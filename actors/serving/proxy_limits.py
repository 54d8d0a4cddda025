"""Limits on connections, in the process of Ray's HTTP proxy, which alone sees a half-sent head.

Ray calls `limit_connections` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it. uvicorn has
no deadline for a head, a body or a reader, and no bound on the size of a head.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from actors.serving.error_response import error_response

HEAD_S = 10.0  # for a whole head
IDLE_S = 75.0  # between two requests
BODY_S = 30.0  # for a body, beside its bytes at MIN_RATE; more than the guard's, which answers
REST_S = (
    10.0  # for a body whose request is answered: a client that is sending reads the answer late
)
READER_S = 30.0  # for a reader to take what waits for it
MIN_RATE = 16 << 10  # bytes a second
MAX_HEAD = 64 << 10  # bytes
MAX_CONNECTIONS = 4096
CHECK_S = 1.0
# by these a client may switch off Ray's deadline, or its watch for a client that left
CONTROL_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, which closes itself on a client that is too slow or sends too large a
    head.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self._paused_since = self.loop.time()
        self._is_in_head, self._received = True, 0
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        self._timer = self.loop.call_later(CHECK_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head and not self._received:
            self._since = self.loop.time()
        self._received += len(data)
        super().data_received(data)
        if self._is_in_head and self._received > MAX_HEAD:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._enter(is_in_head=False)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._enter(is_in_head=True)
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._paused_since = self.loop.time()
        super().pause_writing()

    def _enter(self, is_in_head: bool) -> None:
        self._is_in_head, self._received, self._since = is_in_head, 0, self.loop.time()

    def _check(self) -> None:
        """Close the connection if its client is too slow; look again later."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # the client left, or it speaks WebSocket now
        self._timer = self.loop.call_later(CHECK_S, self._check)
        now = self.loop.time()
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._is_in_head:
            self._since = now  # the next head is awaited from the end of this answer on
        allowed = HEAD_S if self._is_in_head else BODY_S + self._received / MIN_RATE
        if self._is_in_head and not self._received and self.cycle is not None:
            allowed = IDLE_S
        elif not self._is_in_head and not is_answering:
            allowed = REST_S
        is_stuck = self.flow.write_paused and now - self._paused_since > READER_S
        if is_stuck or now - self._since > allowed:
            self.transport.abort()


class ProxyRequests:
    """Takes from a request what only Ray may set, and shows nobody the routes of others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [pair for pair in scope["headers"] if pair[0] not in CONTROL_HEADERS]
            scope = {**scope, "headers": kept}
            if scope["path"] == "/-/routes":
                message = "/-/routes: is closed; use GET /v1/models"
                await error_response(message, "NotFoundError", None, 404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def limit_connections() -> list[Middleware]:
    """Make the proxy's server use LimitedConnection; return what its requests pass first."""
    module: Any = auto
    module.AutoHTTPProtocol = LimitedConnection  # uvicorn looks it up when the server starts
    return [Middleware(ProxyRequests)]
