"""Rollout workers for all tests of this folder: real vLLM engines, each in a Ray actor of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def rollout_actor(ray_local: Any, tiny_llava: Path) -> Iterator[Any]:
    """A worker on the tiny LLaVA. Tests that change weights first load the ones they start from."""
    actor = start_worker(ray_local, "w0", tiny_llava)
    yield actor
    ray_local.kill(actor)


@pytest.fixture(scope="session")
def text_actor(ray_local: Any, text_model: Path) -> Iterator[Any]:
    """A worker on the text model."""
    actor = start_worker(ray_local, "t0", text_model)
    yield actor
    ray_local.kill(actor)


@pytest.fixture(scope="session")
def moe_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture of experts (Qwen3-MoE) with the text model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

    path = tmp_path_factory.mktemp("models") / "tiny-moe"
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tokenizer.save_pretrained(path)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=96,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def moe_actor(ray_local: Any, moe_model: Path) -> Iterator[Any]:
    """A worker on the mixture of experts."""
    actor = start_worker(ray_local, "m0", moe_model)
    yield actor
    ray_local.kill(actor)


def start_worker(ray_local: Any, name: str, model_dir: Path, max_model_len: int = 128) -> Any:
    from actors.rollout.worker import RolloutWorker

    remote = ray_local.remote(RolloutWorker).options(num_cpus=0)
    return remote.remote(
        name, model_dir, max_model_len=max_model_len, dtype="float32", seed=0, sync="object_store"
    )
