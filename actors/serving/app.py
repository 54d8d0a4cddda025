"""A model behind Ray Serve's OpenAI endpoint: the configuration of `ray.serve.llm`, with our
reasoning parser and refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from llguidance.hf import from_tokenizer
from prometheus_client import generate_latest
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import (
    to_model_metadata,
)  # as Ray's documentation imports it
from ray.serve.context import (
    _get_in_flight_requests,
    _get_serve_request_context,
    _serve_request_context,
)
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import make_fastapi_ingress
from vllm.v1.metrics.prometheus import get_prometheus_registry

from actors.serving import replica_port as replica_port  # closes a port, in each replica
from actors.serving import thinking_parser
from actors.serving.endpoint import ENDPOINTS, MonitoredIngress
from actors.serving.endpoint_guard import EndpointGuard, Traffic
from actors.serving.endpoint_metrics import StatusCounter
from actors.serving.refusals import make_app, template_keys
from bimode.config.endpoint import EndpointConfig
from bimode.inputs.prompt_limits import MAX_IMAGES
from bimode.renderer import Renderer

BOUNDED = "guidance"
UNBOUNDED = 10**9  # requests at a time for Ray: EndpointGuard bounds them


class ThinkingServer(LLMServer):
    """Ray's server. Its module registers the parser and the reader of images: a replica that
    unpickles this class has them.
    """

    async def engine_metrics(self) -> bytes:
        """Return vLLM's own counters of this process, in Prometheus' text format."""
        return generate_latest(get_prometheus_registry())


def build_app(renderer: Renderer, endpoint: EndpointConfig) -> Any:
    """The Serve application for the model of `renderer`, on the GPUs of `endpoint` (0: on one CPU).

    Clients know it as `endpoint.name`. A request may set the variables of its chat template and no
    others, and write none of its control tokens. `max_model_len` bounds prompt and response
    together; at 0 it is the most that the model's config allows.
    """
    name, gpus, max_model_len = endpoint.name, endpoint.gpus, endpoint.max_model_len
    model_dir = renderer.path.absolute()
    bundle = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}
    backend = grammar_backend(renderer.tokenizer)
    engine: dict[str, Any] = {
        "dtype": "auto" if gpus else "float32",
        "enforce_eager": not gpus,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "tensor_parallel_size": max(gpus, 1),
        "reasoning_parser": thinking_parser.NAME,
        "reasoning_parser_plugin": thinking_parser.__name__,
        "structured_outputs_config": {"backend": backend},
    }
    if max_model_len:
        engine["max_model_len"] = max_model_len
    engine |= renderer.family.engine_options(MAX_IMAGES if renderer.kind == "image_text" else 0)
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": str(model_dir)},
        accelerator_type=None,
        placement_group_config={"bundles": [bundle] * max(gpus, 1)},
        deployment_config={"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}},
        engine_kwargs=engine,
        server_cls=ThinkingServer,
        log_engine_metrics=False,
    )
    config.apply_checkpoint_info(
        str(model_dir)
    )  # without it the endpoint lists every model as one of text
    ingress = serve.deployment(
        make_fastapi_ingress(MonitoredIngress, endpoint_map=ENDPOINTS, app=guarded_app(endpoint)),
        num_replicas=1,
        max_ongoing_requests=UNBOUNDED,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(
        llm_deployments={name: build_llm_deployment(config)},
        model_cards={name: to_model_metadata(name, config)},
        known_keys=template_keys(renderer.tokenizer.chat_template),
        controls=renderer.control_tokens,
        has_grammars=backend == BOUNDED,
    )


def grammar_backend(tokenizer: Any) -> str:
    """Return vLLM's backend for structured outputs with the tokens of `tokenizer`.

    llguidance limits the work of every step, and ends a request that exceeds it. xgrammar does
    not: `(.?){1000}` holds every request for 12 s a token. It stays for the tokenizers that
    llguidance cannot read, and is given lists of choices alone.
    """
    try:
        from_tokenizer(tokenizer)
    except ValueError:
        return "xgrammar"
    return BOUNDED


def guarded_app(endpoint: EndpointConfig) -> FastAPI:
    """Return the application of `endpoint` behind its guard, whose counts are
    `app.state.traffic`.
    """
    app = make_app()
    app.state.traffic = Traffic()
    app.add_middleware(StatusCounter, traffic=app.state.traffic)
    app.add_middleware(
        EndpointGuard, endpoint=endpoint, traffic=app.state.traffic, track=track_engine_requests
    )
    return app


def track_engine_requests() -> Callable[[], None]:
    """Make Ray remember what the current request asks of the engine; the result cancels it.

    Without it a request that the guard ends would go on in the engine to its last token.
    """
    context = _get_serve_request_context()
    _serve_request_context.set(replace(context, cancel_on_parent_request_cancel=True))

    def abort() -> None:
        for result in tuple(_get_in_flight_requests(context._internal_request_id).values()):
            result.cancel()

    return abort
