"""What the endpoint says of itself: health, counters by mode, and which grammars it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError
from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard

from actors.serving import endpoint
from actors.serving.app import grammar_backend
from actors.serving.chat_request import ChatRequest
from actors.serving.endpoint import MonitoredIngress, _requested_mode, _seen
from actors.serving.endpoint_guard import Traffic
from actors.serving.endpoint_metrics import EndpointMetrics, RequestWatch, StatusCounter
from actors.serving.refusals import Refused, check_grammar
from bimode.inputs.text import OURS
from bimode.renderer import Renderer

pytestmark = (
    pytest.mark.ray
)  # of which it needs no more than the imports: with vLLM they take ten seconds


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """The values of Prometheus' text by name and label values, as its own parser reads them."""
    families = text_string_to_metric_families(text.decode())
    every = (sample for family in families for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in every}


def chunk(delta: dict[str, str], **more: Any) -> str:
    return f"data: {json.dumps({'choices': [{'delta': delta}]} | more, separators=(',', ':'))}\n\n"


USAGE_CHUNK = chunk({}, usage={"prompt_tokens": 9, "completion_tokens": 5})
FIRST = chunk({"role": "assistant", "content": ""})


@pytest.mark.parametrize(
    ("chunks", "mode"),
    [
        ([FIRST, chunk({"reasoning": "look"}), chunk({"content": "24"})], "thinking"),
        ([FIRST, chunk({"content": "24"})], "non_thinking"),
        ([FIRST, chunk({"content": '"reasoning":"no"'})], "non_thinking"),
        ([FIRST, chunk({"content": '"usage":{no}'})], "non_thinking"),
        ([FIRST], "none"),
        ([], "none"),
    ],
)
def test_a_stream_is_counted_under_the_mode_that_it_took(chunks: list[str], mode: str) -> None:
    """A text that looks like a field of the stream is still a text: its quotes are escaped."""
    metrics = EndpointMetrics()
    with RequestWatch(metrics, "auto") as watch:
        assert samples(metrics.text(Traffic()))["bimode_requests_waiting",] == 1
        assert _seen([*chunks, USAGE_CHUNK], watch, drops_usage=True) == chunks
        assert _seen([USAGE_CHUNK], watch, drops_usage=False) == [USAGE_CHUNK]
        assert samples(metrics.text(Traffic()))["bimode_requests_running",] == 1
    found = samples(metrics.text(Traffic()))
    assert found["bimode_requests_total", "auto", mode] == 1
    assert found["bimode_response_tokens_total", "auto", mode] == 5
    assert found["bimode_requests_waiting",] == found["bimode_requests_running",] == 0
    assert found["bimode_request_seconds_count", "auto"] == 1


def test_a_request_that_fails_leaves_nothing_waiting() -> None:
    metrics = EndpointMetrics()
    with pytest.raises(ValueError), RequestWatch(metrics, "long"):
        raise ValueError
    found = samples(metrics.text(Traffic()))
    assert found["bimode_requests_total", "long", "none"] == 1
    assert found["bimode_requests_waiting",] == found["bimode_requests_running",] == 0


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"thinking_mode": "short"}, "short"),
        (None, "auto"),
        ({"thinking_mode": "x\n"}, "other"),
        ({"thinking_mode": ["long"]}, "other"),
        ({"thinking_mode": None}, "other"),
    ],
)
def test_no_label_is_a_text_of_a_client(given: dict[str, Any] | None, label: str) -> None:
    """Each would be a time series of its own, for ever."""
    asked = [{"role": "user", "content": "x"}]
    body = ChatRequest(model="m", messages=asked, chat_template_kwargs=given)
    assert _requested_mode(body) == label


def test_refusals_of_the_application_are_counted_beside_those_of_the_guard() -> None:
    traffic = Traffic()
    traffic.refusals[429] += 2
    traffic.requests_by_key["team-a"] += 3

    async def answer(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        await send({"type": "http.response.start", "status": scope["status"]})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        pass

    for path, status in (("/v1/chat/completions", 400), ("/v1/models", 200), ("/health", 503)):
        scope = {"type": "http", "path": path, "status": status}
        asyncio.run(StatusCounter(answer, traffic)(scope, None, send))  # type: ignore[arg-type]
    found = samples(EndpointMetrics().text(traffic))
    assert found["bimode_refusals_total", "429"] == 2 and found["bimode_refusals_total", "400"] == 1
    assert ("bimode_refusals_total", "503") not in found, "a probe is no refused request"
    assert found["bimode_requests_by_key_total", "team-a"] == 3


def ingress(check: Callable[[], Any], metrics: Callable[[], Any]) -> MonitoredIngress:
    engine = SimpleNamespace(
        check_health=SimpleNamespace(remote=check), engine_metrics=SimpleNamespace(remote=metrics)
    )
    card = ModelCard(id="bpo", object="model", owned_by="", permission=[], metadata={})
    made = MonitoredIngress({"bpo": engine}, {"bpo": card}, known_keys=[], controls=OURS)
    made._asgi_app = SimpleNamespace(state=SimpleNamespace(traffic=Traffic()))
    return made


async def fine() -> bytes:
    return b"vllm:x 1.0\n"


async def dead() -> bytes:
    raise RayActorError


async def silent() -> bytes:
    await asyncio.sleep(60)
    return b""


@pytest.mark.parametrize(
    ("engine", "status", "says"),
    [(fine, 200, "ok"), (dead, 503, "failed"), (silent, 503, "loading or busy")],
)
def test_health_is_that_of_the_engine(
    engine: Callable[[], Any], status: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "HEALTH_S", 0.05)
    monkeypatch.setattr(endpoint, "METRICS_S", 0.05)
    asked = ingress(engine, engine)
    answer = asyncio.run(asked.health())
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, {"status": says})
    text = bytes(asyncio.run(asked.metrics()).body)
    assert b"bimode_requests_waiting 0.0" in text, "also where the engine is dead"
    assert (b"vllm:x 1.0" in text) == (engine is fine)


def test_a_draining_endpoint_is_not_ready(tiny_llava: Path) -> None:
    asked = ingress(fine, fine)
    asked._asgi_app.state.traffic.running = 3
    asyncio.run(asked.begin_drain())
    answer = asyncio.run(asked.health())
    assert (answer.status_code, json.loads(bytes(answer.body))) == (503, {"status": "draining"})
    assert asyncio.run(asked.unfinished()) == 3


def test_grammars_are_applied_by_the_engine_that_bounds_them(
    tiny_llava: Path, tiny_text: Path
) -> None:
    from transformers import AutoTokenizer

    assert grammar_backend(AutoTokenizer.from_pretrained(tiny_text)) == "guidance"
    assert grammar_backend(Renderer(tiny_llava).tokenizer) == "xgrammar", "a tokenizer of words"


def test_without_that_engine_a_list_of_choices_is_all_that_is_taken() -> None:
    asked = [{"role": "user", "content": "x"}]
    for given in (
        {},
        {"structured_outputs": {"choice": ["a"]}},
        {"response_format": {"type": "text"}},
    ):
        check_grammar(ChatRequest(model="m", messages=asked, **given))
    for key, value in (
        ("structured_outputs", {"json": {"type": "object"}}),
        ("structured_outputs", {"json_object": True}),
        ("response_format", {"type": "json_object"}),
    ):
        with pytest.raises(Refused, match=f"{key}: this model takes choices only") as refused:
            check_grammar(ChatRequest(model="m", messages=asked, **{key: value}))
        assert (refused.value.status_code, refused.value.param) == (400, key)
