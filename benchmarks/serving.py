"""Serving under load: 64 streams against another checkout, floods, picture bombs, half-sent
requests.

Both servers run at once, and take their turns at the streams (A B A B ...). What stands in a limit
of the table is a bound that holds for a plain request meanwhile. `--before CHECKOUT` is a work tree
of the code to compare with; without it only the floods are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "assets" / "tiny-annealed"
STREAMS, TOKENS, ROUNDS = 64, 100, 5
FLOOD, HALF_SENT, LIMIT_S = 400, 300, 3.0
GOAL = 0.95
READY_S = 400.0


class Server:
    """`bimode serve` of the code in one checkout, with a port of its own."""

    def __init__(self, checkout: Path, log: Path, *more: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        words = ["-m", "pipelines.serve", "--model", str(MODEL), "--port", str(self.port), *more]
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                cwd=checkout,
                env=env | {"PYTHONPATH": str(checkout)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        end = time.monotonic() + READY_S
        while "serve: ready" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"error: a server did not start: {self.log.read_text()[-500:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(120)


def body(content: Any, tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy request for exactly `tokens` tokens."""
    turns = [{"role": "user", "content": content}]
    fixed = {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True}
    return {"messages": turns, **fixed, **more}


async def post(client: httpx.AsyncClient, sent: dict[str, Any]) -> tuple[int, float]:
    """Return the status of the whole response, and its seconds."""
    started = time.monotonic()
    response = await client.post("/v1/chat/completions", json=sent)
    return response.status_code, time.monotonic() - started


async def streams(server: Server) -> float:
    """Return the tokens a second of all streams together."""
    async with connection(server) as client:
        sent = body("what is the number", TOKENS, stream=True)
        started = time.monotonic()
        answers = await asyncio.gather(*(post(client, sent) for _ in range(STREAMS)))
    assert {status for status, _ in answers} == {200}, answers
    return STREAMS * TOKENS / (time.monotonic() - started)


async def flood(server: Server) -> dict[str, Any]:
    """FLOOD requests at once; the slowest of those that got a place."""
    async with connection(server) as client:
        sent = body("what is the number", 8)
        answers = await asyncio.gather(*(post(client, sent) for _ in range(FLOOD)))
    statuses = Counter(status for status, _ in answers)
    served = max(seconds for status, seconds in answers if status == 200)
    return {"seconds": served, "statuses": dict(statuses)}


async def bombs(server: Server) -> dict[str, Any]:
    """Eight large pictures at once, and a small one shortly after them."""
    pictures = [progressive(4096), plain(4096, 4096), plain(1, 100_000)]
    async with connection(server) as client:
        running = [asyncio.create_task(post(client, picture(pictures[i % 3]))) for i in range(8)]
        await asyncio.sleep(0.5)
        status, seconds = await post(client, picture(plain(16, 16)))
        answers = await asyncio.gather(*running)
    statuses = Counter(status for status, _ in answers)
    return {"seconds": seconds, "small": status, "statuses": dict(statuses)}


def picture(data: bytes) -> dict[str, Any]:
    """A request about the picture `data`."""
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what ?"}]
    return body(parts, 4)


def plain(width: int, height: int) -> bytes:
    """A PNG of one color."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(out, "PNG")
    return out.getvalue()


def progressive(side: int) -> bytes:
    """A progressive JPEG of nearly as many scans as are accepted; the last is repeated."""
    out = io.BytesIO()
    Image.new("L", (side, side), 128).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 38 + b"\xff\xd9"


async def half_sent(server: Server) -> dict[str, Any]:
    """Half headers and half bodies, held open; a plain request meanwhile, and until all are
    closed.
    """
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    held = []
    for i in range(HALF_SENT):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head if i % 2 else head + b"\r\n{")
        held.append((reader, writer))
    started = time.monotonic()
    async with connection(server) as client:
        answers = [await post(client, body("what ?", 4)) for _ in range(5)]
    readings = [asyncio.wait_for(reader.read(), 60) for reader, _ in held]
    ends = await asyncio.gather(*readings, return_exceptions=True)
    seconds = time.monotonic() - started
    for _, writer in held:
        writer.close()
    still_open = sum(isinstance(end, TimeoutError) for end in ends)
    return {
        "seconds": max(seconds for _, seconds in answers),
        "statuses": dict(Counter(status for status, _ in answers)),
        "still_open": still_open,
        "closed_after": round(seconds, 1),
    }


def connection(server: Server) -> httpx.AsyncClient:
    """A client that may open as many connections as it has requests."""
    return httpx.AsyncClient(base_url=server.url, timeout=180, limits=httpx.Limits())


async def measure(ours: Server, before: Server | None) -> dict[str, Any]:
    """Return what was measured, by its name."""
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    sides = {"ours": ours, "peer": before} if before else {}
    for turn in range(1 + ROUNDS):
        for name, server in sides.items():
            rate = await streams(server)
            if turn:  # the first warms up
                rates[name].append(rate)
    found: dict[str, Any] = {name: median(values) for name, values in rates.items() if values}
    found["runs"] = {name: [round(value) for value in values] for name, values in rates.items()}
    for load in (flood, bombs, half_sent):
        found[load.__name__] = await load(ours)
    return found


def main() -> None:
    """Print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="work tree of other code")
    flags = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        own_log, other_log = Path(folder) / "ours", Path(folder) / "before"
        ours = stack.enter_context(Server(ROOT, own_log, "--max-requests", str(STREAMS)))
        before = flags.before and stack.enter_context(Server(flags.before.resolve(), other_log))
        found = asyncio.run(measure(ours, before))
    for load in ("flood", "bombs", "half_sent"):
        kept = "kept" if found[load]["seconds"] <= LIMIT_S else "MISSED"
        print(f"{load:<10} plain request <= {LIMIT_S:g} s: {kept}  {found[load]}")
    ratio = round(found["ours"] / found["peer"], 3) if "peer" in found else None
    line = {"name": "serving", "ratio": ratio, "goal": GOAL, "unit": "tokens/s"}
    print(json.dumps(line | found))


if __name__ == "__main__":
    main()
