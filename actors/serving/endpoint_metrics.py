"""What `/metrics` counts of the endpoint's requests: by mode, status and time; no text, no key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.endpoint_guard import Traffic
from bimode.modes import Mode

NONE = "none"  # the response mode of a request that ended before its first token
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
THINKS = '"reasoning":"'  # in a streamed chunk; within a text the quotes are escaped
ANSWERS, EMPTY = '"content":"', '"content":""'  # a stream begins with a chunk of an empty text
USAGE = '"usage":{'


class EndpointMetrics:
    """The counters of one endpoint, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        asked, both = ["requested_mode"], ["requested_mode", "response_mode"]
        self.requests = Counter(
            "bimode_requests", "Chat requests that ended.", both, registry=self.registry
        )
        self.tokens = Counter(
            "bimode_response_tokens", "Tokens of complete responses.", both, registry=self.registry
        )
        self.running = Gauge(
            "bimode_requests_running", "Requests with a first token.", registry=self.registry
        )
        self.waiting = Gauge(
            "bimode_requests_waiting", "Requests without a first token.", registry=self.registry
        )
        self.first_token = Histogram(
            "bimode_time_to_first_token_seconds",
            "Until the first token of a stream, or until a whole response.",
            asked,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "bimode_request_seconds",
            "Until the end of the response.",
            asked,
            buckets=SECONDS,
            registry=self.registry,
        )

    def text(self, traffic: Traffic) -> bytes:
        """Return all of them, and those of `traffic`, in Prometheus' text format."""
        of_guard = CollectorRegistry()
        of_guard.register(TrafficCollector(traffic))
        return generate_latest(self.registry) + generate_latest(of_guard)


class TrafficCollector(Collector):
    """The counters that the guard keeps of every request, also of one that it refuses."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the families that Prometheus reads."""
        refusals = CounterMetricFamily(
            "bimode_refusals", "Requests that were answered with an error.", labels=["status"]
        )
        for status, count in self.traffic.refusals.items():
            refusals.add_metric([str(status)], count)
        yield refusals
        by_key = CounterMetricFamily(
            "bimode_requests_by_key", "Requests with a key, by the key's name.", labels=["key"]
        )
        for name, count in self.traffic.requests_by_key.items():
            by_key.add_metric([name], count)
        yield by_key


class StatusCounter:
    """ASGI middleware behind the guard: counts the application's refusals as the guard's own."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app, self.traffic = app, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            status = message.get("status", 0)
            if message["type"] == "http.response.start" and status >= 400:
                self.traffic.refusals[status] += 1
            await send(message)

        is_health = scope.get("path", "").endswith("/health")
        await self.app(scope, receive, send if is_health else count)


class RequestWatch:
    """Counts one request from its start to its end; a context manager."""

    def __init__(self, metrics: EndpointMetrics, requested_mode: str) -> None:
        self.metrics, self.requested_mode = metrics, requested_mode
        self.response_mode = NONE
        self.has_begun, self.tokens = False, 0

    def __enter__(self) -> RequestWatch:
        self.started = time.monotonic()
        self.metrics.waiting.inc()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        metrics, asked = self.metrics, self.requested_mode
        (metrics.running if self.has_begun else metrics.waiting).dec()
        metrics.requests.labels(asked, self.response_mode).inc()
        metrics.tokens.labels(asked, self.response_mode).inc(self.tokens)
        metrics.duration.labels(asked).observe(time.monotonic() - self.started)

    def see_response(self, response: ChatCompletionResponse) -> None:
        """Count a whole response."""
        self._begin()
        thinks = any(choice.message.reasoning for choice in response.choices)
        self.response_mode = Mode.THINKING if thinks else Mode.NON_THINKING
        self.tokens = response.usage.completion_tokens or 0

    def see_chunk(self, chunk: str) -> None:
        """Count one chunk of a stream, as vLLM writes it."""
        self._begin()
        if THINKS in chunk:
            self.response_mode = Mode.THINKING
        elif self.response_mode == NONE and ANSWERS in chunk and EMPTY not in chunk:
            self.response_mode = Mode.NON_THINKING
        if USAGE in chunk:
            sent = json.loads(chunk.removeprefix("data: "))
            self.tokens = sent["usage"]["completion_tokens"]

    def _begin(self) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        self.metrics.waiting.dec()
        self.metrics.running.inc()
        elapsed = time.monotonic() - self.started
        self.metrics.first_token.labels(self.requested_mode).observe(elapsed)
