"""Who may use the endpoint, how much of it, and how slowly: attacks on the guard, without a
server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from actors.serving import endpoint_guard
from actors.serving.endpoint_guard import EndpointGuard, Traffic, has_too_many_tokens
from bimode.config.endpoint import ApiKey, EndpointConfig

KEY = "k" * 24
KEYS = tuple(
    ApiKey(name, hashlib.sha256(key.encode()).digest())
    for name, key in (("alice", "a" * 24), ("bob", KEY))
)
LOCAL = EndpointConfig(allow_origins=("https://chat.example",))
OPEN = EndpointConfig(host="0.0.0.0", api_keys=KEYS)
HOST = ("Host", "127.0.0.1:8000")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The line of a refusal, which has OpenAI's shape."""
        error = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == self.status and "\n" not in error["message"]
        return str(error["message"])


@dataclass
class Endpoint:
    """A guard before an application that answers `[method, length of the body]`."""

    config: EndpointConfig
    traffic: Traffic = field(default_factory=Traffic)
    release: asyncio.Event | None = None  # what the application waits for
    is_stream: bool = False
    scopes: list[Scope] = field(default_factory=list)
    aborted: int = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = b"" if scope["method"] == "GET" else (await receive())["body"]
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        if self.is_stream:
            await send(start)
        if self.release and scope["method"] == "POST":
            await self.release.wait()
        if not self.is_stream:
            await send(start)
        said = json.dumps([scope["method"], len(body)]).encode()
        await send({"type": "http.response.body", "body": said})

    def _abort(self) -> None:
        self.aborted += 1

    async def ask(
        self,
        *headers: tuple[str, str],
        method: str = "POST",
        path: str = "/v1/chat/completions",
        body: Iterable[bytes] = (b"{}",),
        is_complete: bool = True,
    ) -> Answer:
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers]
        scope = {"type": "http", "method": method, "path": path, "headers": raw}
        chunks, sent = list(body), list[Message]()
        last = len(chunks) - 1

        async def receive() -> Message:
            await asyncio.sleep(0)  # others arrive meanwhile
            if not chunks:
                await asyncio.Event().wait()  # a client that sends no more
            more = not is_complete or len(chunks) > 1
            return {"type": "http.request", "body": chunks.pop(0), "more_body": more}

        async def send(message: Message) -> None:
            sent.append(message)

        assert last >= 0
        guard = EndpointGuard(self.app, self.config, self.traffic, lambda: self._abort)
        await guard(scope, receive, send)
        assert not sent[-1].get("more_body", False)
        given = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
        return Answer(sent[0]["status"], given, b"".join(m.get("body", b"") for m in sent[1:]))


def ask(config: EndpointConfig, *headers: tuple[str, str], **request: Any) -> Answer:
    return asyncio.run(Endpoint(config).ask(*headers, **request))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer")],
        [("Authorization", KEY)],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", f"Bearer {KEY[:-1]}")],
        [("Authorization", f"Bearer {KEY}k")],
        [("Authorization", f"Bearer {KEY.upper()}")],
        [("Authorization", "Bearer alice")],
        [("Authorization", f"Bearer {KEY[:-1]}\xe9")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
        [("X-Api-Key", KEY)],
        [("Cookie", f"key={KEY}")],
    ],
    ids=range(13),
)
def test_without_a_whole_key_nothing_is_answered(headers: list[tuple[str, str]]) -> None:
    for path in (
        "/v1/models",
        "/metrics",
        "/v1/chat/completions",
        "/docs",
        "/health/",
        "/health/x",
    ):
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = ask(OPEN, HOST, *headers, method=method, path=path)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer KEY" in answer.message and KEY not in answer.message


def test_a_key_opens_every_address_and_goes_no_further() -> None:
    endpoint = Endpoint(OPEN)
    for scheme in ("Bearer", "bearer", "BEARER "):
        answer = asyncio.run(endpoint.ask(("Authorization", f"{scheme} {KEY}"), HOST))
        assert (answer.status, answer.body) == (200, b'["POST", 2]')
    assert endpoint.traffic.requests_by_key == {"bob": 3}
    assert KEY not in repr(endpoint.scopes) + repr(OPEN) and "host" in repr(endpoint.scopes)


def test_health_needs_no_key() -> None:
    assert ask(OPEN, HOST, method="GET", path="/health").status == 200
    assert ask(OPEN, HOST, path="/health").status == 401, "a POST would hold a body"


@pytest.mark.parametrize(
    "host",
    [
        "rebind.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "",
        "127.0.0.1@evil.example",
        "0.0.0.0:8000",
        "127.0.0.1:8000, evil.example",
    ],
)
def test_a_local_server_answers_to_no_other_name(host: str) -> None:
    answer = ask(LOCAL, ("Host", host))
    assert answer.status == 403 and answer.message.startswith("Host: this server is http://127.0")
    for config in (OPEN, EndpointConfig(api_keys=KEYS)):  # behind a proxy with a name of its own
        assert ask(config, ("Host", host), ("Authorization", f"Bearer {KEY}")).status == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:9", "[::1]:8000", "127.0.0.1"]
)
def test_a_local_server_answers_to_its_own_names(host: str) -> None:
    assert ask(LOCAL, ("Host", host)).status == 200
    assert ask(LOCAL, ("Host", host), ("Host", host)).status == 403
    assert ask(LOCAL).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "https://chat.example.evil",
        "http://chat.example",
        "https://chat.example:8443",
        "https://CHAT.example",
        "",
        "http://127.0.0.1:8000",
    ],
)
def test_a_page_that_is_not_allowed_makes_the_model_do_nothing(origin: str) -> None:
    """A POST of text/plain needs no preflight: without the 403 the model would work for it."""
    endpoint = Endpoint(LOCAL)
    for method in ("POST", "GET", "OPTIONS"):
        wanted = ("Access-Control-Request-Method", "POST")
        answer = asyncio.run(endpoint.ask(HOST, ("Origin", origin), wanted, method=method))
        assert answer.status == 403 and "--allow-origin" in answer.message
        assert not any(name.startswith("access-control") for name in answer.headers)
    both = (("Origin", "https://chat.example"), ("Origin", origin))
    assert asyncio.run(endpoint.ask(HOST, *both)).status == 403
    assert endpoint.scopes == [] and endpoint.traffic.refusals == {403: 4}


def test_an_allowed_page_may_ask_and_read_and_sends_no_cookies() -> None:
    origin = ("Origin", "https://chat.example")
    wanted = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,x-a"),
    ]
    asked = ask(LOCAL, HOST, origin, *wanted, method="OPTIONS")
    assert (
        asked.status == 204 and asked.headers["access-control-allow-headers"] == "authorization,x-a"
    )
    for answer in (asked, ask(LOCAL, HOST, origin)):
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-origin" not in ask(LOCAL, HOST).headers
    assert ask(LOCAL, HOST).headers["vary"] == "Origin"


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """400 MB of blanks were read whole."""
    endpoint = Endpoint(LOCAL)
    for method in ("POST", "GET", "PUT"):
        size = ("Content-Length", str(400 << 20))
        answer = asyncio.run(endpoint.ask(HOST, size, method=method, is_complete=False))
        assert answer.status == 413
    assert endpoint.traffic.held_bytes == 0 and endpoint.scopes == []


def test_a_body_of_unknown_size_is_refused_when_it_has_become_too_large() -> None:
    endpoint, blanks = Endpoint(LOCAL), b" " * (8 << 20)
    assert asyncio.run(endpoint.ask(HOST, body=[blanks] * 4)).body == b'["POST", 33554432]'
    answer = asyncio.run(endpoint.ask(HOST, body=[*[blanks] * 4, b"x"], is_complete=False))
    assert answer.status == 413 and "33554432 bytes" in answer.message
    assert endpoint.traffic.held_bytes == endpoint.traffic.running == 0


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_guard, "MAX_BODIES", 10)

    async def both() -> tuple[Answer, int]:
        endpoint = Endpoint(LOCAL)
        first = asyncio.create_task(endpoint.ask(HOST, body=[b"1234567"], is_complete=False))
        await asyncio.sleep(0)
        second = await endpoint.ask(HOST, body=[b"1234"])
        first.cancel()
        await asyncio.wait([first])
        return second, endpoint.traffic.held_bytes

    answer, held = asyncio.run(both())
    assert (answer.status, held) == (429, 0)


PART = b'{"type":"text"},'


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b'{"messages":[{"content":[' + PART * 200_000 + b"0]}]}", True),
        (b"[" * 100_001, True),
        (b"[" * 100_000, False),
        (b"[" + b"1," * 3_000_000, True),
        (b'{"a" :1}' * 60_000, True),
        (b'"' + b'\\"' * 3_000_000 + b'"', False),
        (b'"' + b"{[," * 3_000_000 + b'"', False),
        (b'{"url":"data:image/png;base64,' + b"A" * (30 << 20) + b'"}', False),
        (b'"' * 30_000_000, True),
    ],
    ids=range(9),
)
def test_a_body_of_too_many_pieces_is_known_before_it_is_parsed(
    body: bytes, is_refused: bool
) -> None:
    """Three bodies of 200,000 parts stopped every other request for 25 s."""
    assert has_too_many_tokens(body) is is_refused


def test_more_requests_than_allowed_are_sent_away() -> None:
    async def flood() -> tuple[list[int], Answer, Endpoint]:
        endpoint = Endpoint(EndpointConfig(max_requests=8), release=asyncio.Event())
        asked = [asyncio.create_task(endpoint.ask(HOST)) for _ in range(400)]
        await asyncio.sleep(0.01)
        assert endpoint.traffic.running == 8
        refused = await endpoint.ask(HOST)
        assert (await endpoint.ask(HOST, method="GET", path="/v1/models")).status == 200
        assert endpoint.release
        endpoint.release.set()
        statuses = [answer.status for answer in await asyncio.gather(*asked)]
        assert (await endpoint.ask(HOST)).status == 200
        return statuses, refused, endpoint

    statuses, refused, endpoint = asyncio.run(flood())
    assert statuses.count(200) == 8 and statuses.count(429) == 392
    assert refused.headers["retry-after"] == "1" and "8 requests are running" in refused.message
    assert endpoint.traffic.running == endpoint.traffic.held_bytes == 0
    assert endpoint.traffic.refusals == {429: 393}


def test_a_half_sent_body_ends_and_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_guard, "BODY_S", 0.3)

    async def half_sent() -> tuple[Answer, list[Answer], Traffic]:
        endpoint = Endpoint(EndpointConfig(max_requests=1))
        slow = [asyncio.create_task(endpoint.ask(HOST, is_complete=False)) for _ in range(300)]
        await asyncio.sleep(0.05)
        return await endpoint.ask(HOST), await asyncio.gather(*slow), endpoint.traffic

    plain, slow, traffic = asyncio.run(half_sent())
    assert plain.status == 200
    assert {answer.status for answer in slow} == {408} and slow[0].headers["connection"] == "close"
    assert traffic.held_bytes == 0 and traffic.refusals == {408: 300}


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_that_takes_too_long_ends_with_its_engine_request(is_stream: bool) -> None:
    async def stuck() -> tuple[Answer, Endpoint]:
        config = EndpointConfig(request_timeout_s=0.1)
        endpoint = Endpoint(config, release=asyncio.Event(), is_stream=is_stream)
        return await endpoint.ask(HOST), endpoint

    answer, endpoint = asyncio.run(stuck())
    assert endpoint.aborted == 1 and endpoint.traffic.running == 0
    assert endpoint.traffic.refusals == {504: 1}
    if is_stream:
        assert answer.status == 200 and answer.body.startswith(
            b'data: {"error":{"message":"not done in 0.1 s'
        )
        assert answer.body.endswith(b"\n\n")
    else:
        assert answer.status == 504 and answer.message.startswith("not done in 0.1 s")


def test_a_draining_endpoint_takes_nothing_new_and_ends_what_runs() -> None:
    async def drained() -> tuple[Answer, Answer, int]:
        endpoint = Endpoint(EndpointConfig(), release=asyncio.Event())
        running = asyncio.create_task(endpoint.ask(HOST))
        await asyncio.sleep(0.01)
        endpoint.traffic.begin_drain()
        refused = await endpoint.ask(HOST)
        before = endpoint.traffic.running
        assert endpoint.release
        endpoint.release.set()
        return refused, await running, before

    refused, whole, before = asyncio.run(drained())
    assert (refused.status, whole.status, before) == (503, 200, 1)
    assert refused.headers["retry-after"] == "5"


def test_headers_are_bounded_and_a_websocket_is_closed() -> None:
    assert ask(LOCAL, HOST, ("X-A", "a" * 70_000)).status == 431
    assert ask(OPEN, HOST, ("Authorization", "Bearer " + "a" * 70_000)).status == 431
    sent = list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    endpoint = Endpoint(LOCAL)
    guard = EndpointGuard(endpoint.app, LOCAL, endpoint.traffic, lambda: lambda: None)
    asyncio.run(guard({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}] and endpoint.scopes == []
