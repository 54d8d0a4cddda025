"""Shared fixtures: tiny models made from config (never a hub), one Ray instance per session."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cluster.environment import worker_env
from cluster.session import start_local

REPO = Path(__file__).resolve().parent.parent
os.environ |= worker_env()  # the test process itself may hold an engine
settings.register_profile("untimed", deadline=None)  # speed is what benchmarks/ are for
settings.load_profile("untimed")


gc.disable()  # it would look again and again through what the test files import


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cheap tests first; of those that start an engine the long ones, or a process would be
    alone with them at the end. Whoever uses Ray is one of these, whether it says so or not.
    """
    for item in items:
        if "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
    items.sort(key=lambda item: (_is(item, "ray"), not _is(item, "slow")))


def _is(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialized tiny LLaVA directory with template and think tags."""
    from bimode.models.template import CHAT_TEMPLATE
    from bimode.models.tiny_llava import write_tiny_llava

    return write_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava", CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign text-only causal LM: another architecture, its own byte-level tokenizer, no chat
    template, no think tags.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "tiny-text"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(path)
    # heads of 32: vLLM's attention on CPU has no kernel for 16
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    import torch

    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def text_model(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The foreign text model after a run has given it what it lacks."""
    from bimode.models.prepare_model import prepare_base

    path, added = prepare_base(str(tiny_text), tmp_path_factory.mktemp("text") / "base", seed=0)
    assert added
    return path


@pytest.fixture(scope="session")
def ray_local() -> Iterator[Any]:
    """One local Ray for the whole session, with the same worker environment as a real run."""
    import ray

    start_local(worker_env() | {"PYTHONPATH": str(REPO)}, num_cpus=4, object_store_memory=400 << 20)
    yield ray
    ray.shutdown()
