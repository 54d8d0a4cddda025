"""Clients that are too slow, at a real server of uvicorn with the proxy's connections; without
Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http import auto

from actors.serving import proxy_limits
from actors.serving.proxy_limits import ProxyRequests, limit_connections
from tests.ports import free_ports

MIB = 1 << 20
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
seen = list[Scope]()
sent = list[int]()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body; answer 2 bytes, or 64 MiB at /large."""
    seen.append(scope)
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})
        sent.append(MIB)
    await send({"type": "http.response.body", "body": b"ok"})


async def closed_after(streams: Streams) -> float:
    """Seconds until the server closes."""
    start = time.monotonic()
    with suppress(ConnectionError):
        await asyncio.wait_for(streams[0].read(), 8)
    return time.monotonic() - start


def served(
    monkeypatch: pytest.MonkeyPatch, client: Callable[[int], Awaitable[None]], **limits: float
) -> None:
    """Run `client` with the port of a server that has `limits`."""
    for name, value in ({"CHECK_S": 0.05} | limits).items():
        monkeypatch.setattr(proxy_limits, name, value)
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)  # undone at the end
    [middleware] = limit_connections()
    assert middleware.cls is ProxyRequests
    [port] = free_ports(1)

    async def run() -> None:
        config = uvicorn.Config(ProxyRequests(app), port=port, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await client(port)
        finally:
            server.should_exit = server.force_exit = True
            await task

    seen.clear(), sent.clear()
    asyncio.run(run())


async def opened(port: int, data: bytes) -> Streams:
    streams = await asyncio.open_connection("127.0.0.1", port)
    streams[1].write(data)
    return streams


async def plain(port: int) -> bytes:
    reader, _ = await opened(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return await asyncio.wait_for(reader.read(), 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"G", b"POST / HTTP/1.1\r\nHost: x\r\nX-", POST],
    ids=["silent", "byte", "head", "body"],
)
def test_300_half_sent_requests_are_closed_and_others_unhurt(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def client(port: int) -> None:
        flood = [await opened(port, data) for _ in range(300)]
        assert (await plain(port)).endswith(b"ok\r\n0\r\n\r\n")
        times = await asyncio.gather(*map(closed_after, flood))
        assert max(times) < 5
        assert (await plain(port)).startswith(b"HTTP/1.1 200")

    served(monkeypatch, client, HEAD_S=0.5, BODY_S=0.5)


def test_a_byte_now_and_then_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a first head, of a body, and of the head after an answer."""

    async def client(port: int) -> None:
        whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        for data in (b"GET / HTTP/1.1\r\nX-A: ", POST, whole + b"GET / HTTP/1.1\r\nX-A: "):
            _, writer = await opened(port, data)
            start = time.monotonic()
            while not writer.transport.is_closing() and time.monotonic() - start < 8:
                writer.write(b"a")
                await asyncio.sleep(0.05)
            assert 0.3 < time.monotonic() - start < 5

    served(monkeypatch, client, HEAD_S=0.5, BODY_S=0.5)


def test_a_connection_between_two_requests_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(port: int) -> None:
        reader, writer = await opened(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(2):
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.7)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")

    served(monkeypatch, client, HEAD_S=0.3, BODY_S=0.3)


def test_a_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(port: int) -> None:
        _, writer = await opened(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(2)
        before = len(sent)
        await asyncio.sleep(0.3)
        assert len(sent) in (before, 64), "the application is no longer held by the connection"
        assert len(sent) == 64
        writer.close()

    served(monkeypatch, client, READER_S=0.5)


def test_a_head_without_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(port: int) -> None:
        streams = await opened(port, b"GET / HTTP/1.1\r\nX-A: " + b"a" * (MIB // 2))
        assert await closed_after(streams) < 2
        assert seen == []

    served(monkeypatch, client)


def test_a_client_sets_nothing_that_is_rays_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`x-request-disconnect-disabled: ?1` kept the engine at work for a client that had left."""

    async def client(port: int) -> None:
        head = b"Host: x\r\nX-Request-Timeout-Seconds: 0\r\nX-Request-Disconnect-Disabled: ?1\r\n"
        await opened(port, b"GET / HTTP/1.1\r\n" + head + b"\r\n")
        assert (await plain(port)).startswith(b"HTTP/1.1 200")
        assert seen[0]["headers"] == [(b"host", b"x")]
        reader, _ = await opened(
            port, b"GET /-/routes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 404")

    served(monkeypatch, client)
