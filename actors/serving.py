"""A model behind Ray Serve's OpenAI endpoint: the configuration of `ray.serve.llm`, with our reasoning parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve.llm import LLMConfig, build_openai_app
from ray.serve.llm.deployment import LLMServer

from actors import thinking_parser
from actors.vllm_engine import MAX_IMAGES, implementation
from bimode.codec import ModelKind


class ThinkingServer(LLMServer):
    """Ray's server. Its module registers the parser: a replica that unpickles this class has it."""


def build_app(model_dir: Path, kind: ModelKind, *, name: str, gpus: int, max_model_len: int) -> Any:
    """The Serve application for `model_dir`, known to clients as `name`, on `gpus` GPUs (0: on one CPU).

    `max_model_len` bounds prompt and response together; at 0 it is the most that the model's config allows.
    """
    bundle = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}
    engine: dict[str, Any] = {
        "dtype": "auto" if gpus else "float32",
        "enforce_eager": not gpus,
        "model_impl": implementation(model_dir),
        "tensor_parallel_size": max(gpus, 1),
        "reasoning_parser": thinking_parser.NAME,
        "reasoning_parser_plugin": thinking_parser.__name__,
    }
    if max_model_len:
        engine["max_model_len"] = max_model_len
    if kind == "image_text":
        engine["limit_mm_per_prompt"] = {"image": MAX_IMAGES}
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": str(model_dir)},
        accelerator_type=None,
        placement_group_config={"bundles": [bundle] * max(gpus, 1)},
        deployment_config={"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}},
        engine_kwargs=engine,
        server_cls=ThinkingServer,
        log_engine_metrics=False,
    )
    ingress = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}
    return build_openai_app({"llm_configs": [config], "ingress_deployment_config": ingress})
