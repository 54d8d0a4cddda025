"""What every request to the endpoint passes before Ray's application sees it.

A plain ASGI middleware in the one ingress replica, so that it holds for every route, and so that
its count of running requests is the endpoint's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.error_response import error_response
from bimode.config.endpoint import ApiKey, EndpointConfig

MAX_BODY = 32 << 20  # bytes of one request
MAX_BODIES = 1 << 30  # bytes of all requests together
MAX_HEADERS = 64 << 10  # bytes
MAX_TOKENS = 100_000  # strings, brackets and commas of a JSON body
BODY_S = 20.0  # a body may take so long, and longer at MIN_RATE
MIN_RATE = 16 << 10  # bytes a second
# a string that does not end is read to the end of the body, and not again from each of its quotes
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{,]', re.DOTALL)
PORT = re.compile(r":\d{1,5}$", re.ASCII)
LOCAL_NAME = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]", re.ASCII)
WITHOUT_KEY = ("/health",)
UNCOUNTED = ("GET", "HEAD", "OPTIONS")  # their bodies are never read
ASKED_METHOD = "access-control-request-method"
RETRY = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}  # at once: a client that is still sending may not read the answer
LATER = "try again later"
KINDS = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    408: "RequestTimeoutError",
    413: "BadRequestError",
    429: "RateLimitError",
    431: "BadRequestError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}
Track = Callable[[], Callable[[], None]]

logger = logging.getLogger("ray.serve")


@dataclass(slots=True)
class Traffic:
    """What the endpoint is doing: requests that run or wait, and refusals by status."""

    running: int = 0
    is_draining: bool = False
    held_bytes: int = 0  # of bodies that were received
    refusals: Counter[int] = field(default_factory=Counter)
    requests_by_key: Counter[str] = field(default_factory=Counter)

    def begin_drain(self) -> None:
        """Refuse every new request from now on; running ones go on."""
        self.is_draining = True


class Refusal(Exception):
    """A request that the application never sees."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers


class TooLarge(Refusal):
    """A body of more than MAX_BODY bytes."""

    def __init__(self) -> None:
        fix = "send fewer or smaller pictures"
        super().__init__(413, f"body: at most {MAX_BODY} bytes; {fix}")


class EndpointGuard:
    """Refuses what the endpoint was not opened for, and bounds what it was opened for.

    `track` is called before a request reaches the application; what it returns ends the engine's
    part of that request.
    """

    def __init__(
        self, app: ASGIApp, endpoint: EndpointConfig, traffic: Traffic, track: Track
    ) -> None:
        self.app, self.endpoint, self.traffic, self.track = app, endpoint, traffic, track
        # keys keep out a page that rebinds its name, and a proxy sends whatever name it has
        self.needs_own_host = endpoint.is_local and not endpoint.api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_head(scope, headers)
            send = self._with_origin(headers, send)
            if scope["method"] == "OPTIONS" and ASKED_METHOD in headers:
                await _preflight(headers)(scope, receive, send)
                return
            self._check_key(scope, headers)
            # the key goes no further than this: Ray hands the headers to the engine's process
            kept = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
            await self._bounded({**scope, "headers": kept}, receive, send)
        except Refusal as refusal:
            self.traffic.refusals[refusal.status] += 1
            kind = KINDS[refusal.status]
            response = error_response(refusal.message, kind, None, refusal.status, refusal.headers)
            await response(scope, receive, send)

    def _check_head(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal for headers that are too large, or that a foreign web page sent.

        An attacker's page may reach a local server by a name of its own that resolves to
        127.0.0.1: only its Host header gives it away.
        """
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise Refusal(431, f"headers: at most {MAX_HEADERS} bytes; send fewer")
        hosts = headers.getlist("host")
        host = PORT.sub("", hosts[0]).lower() if len(hosts) == 1 else ""
        is_own = LOCAL_NAME.fullmatch(host) or host == self.endpoint.host.lower()
        if self.needs_own_host and not is_own:
            raise Refusal(403, f"Host: this server is http://127.0.0.1:{self.endpoint.port} only")
        for origin in headers.getlist("origin"):
            if origin not in self.endpoint.allow_origins:
                fix = "start the server with --allow-origin, naming that web page's origin"
                raise Refusal(403, f"Origin: web pages from there may not use this server; {fix}")

    def _with_origin(self, headers: Headers, send: Send) -> Send:
        """Return a `send` that lets the allowed page of the request read the response."""
        if not self.endpoint.allow_origins:
            return send
        origin = headers.get("origin")

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                response = MutableHeaders(scope=message)
                response.add_vary_header("Origin")
                if origin is not None:
                    response["Access-Control-Allow-Origin"] = origin
            await send(message)

        return send_with_origin

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal unless the request has a key, where keys are needed."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_open = path in WITHOUT_KEY and scope["method"] in UNCOUNTED
        if not self.endpoint.api_keys or is_open:
            return
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        name = key_name(key.strip(), self.endpoint.api_keys) if scheme.lower() == "bearer" else ""
        if not name:
            message = (
                "Authorization: no key of this server; send one header Authorization: Bearer KEY"
            )
            raise Refusal(401, message, {"WWW-Authenticate": "Bearer"})
        self.traffic.requests_by_key[name] += 1
        logger.info("%s %s: key %s", scope["method"], path, name)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, with a bound on requests, on bytes and on time."""
        if int(Headers(scope=scope).get("content-length") or 0) > MAX_BODY:
            raise TooLarge
        if scope["method"] in UNCOUNTED:
            await self.app(scope, receive, send)
            return
        traffic, body = self.traffic, bytearray()
        self._check_room()
        try:
            if not await self._read(receive, body):
                return  # the client left
            if has_too_many_tokens(body):
                fix = "send fewer messages, parts or items"
                raise Refusal(413, f"body: at most {MAX_TOKENS} JSON strings and items; {fix}")
            self._check_room()  # others may have been faster
            traffic.running += 1
            try:
                await self._run(scope, bytes(body), receive, send)
            finally:
                traffic.running -= 1
        finally:
            traffic.held_bytes -= len(body)

    def _check_room(self) -> None:
        """Raise Refusal unless a request may run or wait."""
        if self.traffic.is_draining:
            message = "the server is stopping; send the request to another one, or later"
            raise Refusal(503, message, {"Retry-After": "5"})
        if self.traffic.running >= self.endpoint.max_requests:
            raise Refusal(429, f"{self.endpoint.max_requests} requests are running; {LATER}", RETRY)

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Append the request's body to `body`; False if the client leaves before its end."""
        start = asyncio.get_running_loop().time()
        more = True
        while more:
            allowed = min(BODY_S + len(body) / MIN_RATE, self.endpoint.request_timeout_s)
            try:
                async with asyncio.timeout_at(start + allowed):
                    message = await receive()
            except TimeoutError:
                message_408 = f"body: {len(body)} bytes in {allowed:.0f} s; send it faster"
                raise Refusal(408, message_408, CLOSE) from None
            if message["type"] == "http.disconnect":
                return False
            chunk = message.get("body", b"")
            body += chunk
            self.traffic.held_bytes += len(chunk)
            if len(body) > MAX_BODY:
                raise TooLarge
            if self.traffic.held_bytes > MAX_BODIES:
                raise Refusal(429, f"bodies of {MAX_BODIES} bytes are being read; {LATER}", RETRY)
            more = message.get("more_body", False)
        return True

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application on the whole `body`; end it when its time is over."""
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        has_started = False

        async def receive_whole() -> Message:
            return unread.pop() if unread else await receive()

        async def send_noted(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        deadline = asyncio.timeout(self.endpoint.request_timeout_s)
        abort = self.track()
        try:
            async with deadline:
                await self.app(scope, receive_whole, send_noted)
        except TimeoutError:
            if not deadline.expired():
                raise
            abort()
            message = f"not done in {self.endpoint.request_timeout_s:g} s; ask for fewer tokens"
            if not has_started:
                raise Refusal(504, message) from None
            self.traffic.refusals[504] += 1
            event = bytes(error_response(message, KINDS[504], None, 504).body)
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % event})


def key_name(key: str, known: Iterable[ApiKey]) -> str:
    """Return the name of `key` among the `known` ones, or "". All are compared, in constant
    time.
    """
    digest, name = hashlib.sha256(key.encode()).digest(), ""
    for one in known:
        if hmac.compare_digest(digest, one.digest):
            name = one.name
    return name


def has_too_many_tokens(body: bytes | bytearray) -> bool:
    """Return True if a JSON `body` has more than MAX_TOKENS strings, brackets and commas.

    To parse and check so many would stop every other request for seconds.
    """
    return next(islice(TOKEN.finditer(body), MAX_TOKENS, None), None) is not None


def _preflight(headers: Headers) -> Response:
    """What a browser asks before an allowed page's request."""
    allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "600"}
    if asked := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = asked
    return Response(status_code=204, headers=allowed)
